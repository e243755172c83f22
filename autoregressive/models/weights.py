"""From checkpoint files to transformers: LlamaGen's, RLlamaGen's, NEP's and ours."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoregressive.models.arithmetic import (
    MARKER,
    OWN_CELL_TABLE,
    configuration,
    read_marker,
    require_named,
    require_same_arithmetic,
    require_same_tables,
)
from autoregressive.models.config import GPT_MODELS, ModelConfig
from autoregressive.models.gpt import Transformer
from runtime.checkpoint import checkpoint_args, load_checkpoint, load_weights
from runtime.errors import UserError
from runtime.logging import get_logger

POSITION_TABLE = "target_aware_pos_embed_postfix"
MARKS = ("mask_embedding", "unmask_embedding")
# Of the head's rows, against unit codes; measured: 1 learns slower, 20 no faster.
CODEBOOK_HEAD_SCALE = 8.0
_MOST_CELLS = 2**20
ADAPTER = "adapter"
"""A checkpoint with this holds no whole model: see `autoregressive.adapters`."""
log = get_logger(__name__)


def resize_position_table(table: Tensor, num_cells: int) -> Tensor:
    """Takes a (1, n², D) position table to another square grid, bicubic: (1, num_cells, D)."""
    old, new = round(table.shape[1] ** 0.5), round(num_cells**0.5)
    if old == new:
        return table
    image = table.float().unflatten(1, (old, old)).permute(0, 3, 1, 2)
    resized = F.interpolate(image, size=(new, new), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)


def transformer_state(content: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint, EMA ones where there are, without the marker of their arithmetic."""
    state = content.get("ema") or content["model"]
    return {name: weight for name, weight in state.items() if name != MARKER}


def initialise_from(model: Transformer, path: str | Path, image_size: int | None = None) -> list[str]:
    """Starts `model` from a checkpoint of this stage or of the one before it.

    What the checkpoint lacks keeps its fresh values: the position table (LlamaGen → R-GPT), the two marks
    (RLlamaGen → NEP), and the table of own cells, zeros, with which the model computes what it did. Tables of
    another grid are resized, bicubic.

    Args:
      image_size: of the training to come, to be told where it is another than that of the weights.
    Returns:
      The names of the tables that the checkpoint lacks.
    Raises:
      UserError: any other difference, by name.
    """
    content = load_checkpoint(path)
    _require_whole_model(content, path)
    state = transformer_state(content)
    if OWN_CELL_TABLE in state:
        require_same_tables(model.config, state, path)
    trained_at = checkpoint_args(content).get("image_size")
    if None not in (image_size, trained_at) and image_size != trained_at:
        log.info("%s was trained at %s px and goes on at %d px", path, trained_at, image_size)
    for name in (POSITION_TABLE, OWN_CELL_TABLE):
        if name not in state or name not in model.state_dict() or state[name].dim() != 3:
            continue
        before = state[name].shape[1]
        state[name] = resize_position_table(state[name], model.config.block_size)
        if before != model.config.block_size:
            log.info("%s: %s resized from %d to %d cells", path, name, before, model.config.block_size)
    tables = (POSITION_TABLE, OWN_CELL_TABLE, *MARKS)
    absent = [n for n in tables if n in model.state_dict() and n not in state]
    # The marks come as a pair; half a pair is a damaged file, which load_weights then reports.
    may_miss = [n for n in absent if n not in MARKS or not any(m in state for m in MARKS)]
    check = partial(require_same_arithmetic, model.config, content, path)
    load_weights(model, state, path, may_miss, check=check)
    if absent:
        log.info("%s has no %s: fresh values kept", path, ", ".join(absent))
    return absent


def _require_whole_model(content: dict[str, Any], path: str | Path) -> None:
    if ADAPTER in content:
        raise UserError(
            f"{path} holds an adapter alone: load {content[ADAPTER].get('base')} and give this as --adapter, "
            "or make one file of both with scripts/export_weights.py"
        )


@torch.no_grad()
def start_from_codebook(model: Transformer, codebook: Tensor) -> None:
    """Starts the code embeddings and the output head of a fresh `model` from the tokenizer's codebook.

    Both begin as the (V, E) unit codes, E at most the model's width, each turned into it by a rotation of its
    own; the embeddings keep their norm, and some of the noise that tells near codes apart. Codes of similar
    patches so begin alike, where otherwise each would have to be learned by itself.
    """
    codes = codebook.to(model.device)
    width = model.config.dim
    into, out_of = (nn.init.orthogonal_(codes.new_empty(codes.shape[1], width)) for _ in range(2))
    embeddings = model.tok_embeddings.weight
    norm = embeddings.norm(dim=1).mean()
    embeddings.mul_(0.3).add_(codes @ into * norm)
    model.output.weight.copy_(codes @ out_of * CODEBOOK_HEAD_SCALE)


def model_args(model_name: str, config: ModelConfig) -> dict[str, Any]:
    """What a checkpoint stores to be rebuilt: the registry name and the full configuration."""
    return {"gpt_model": model_name, "model_config": asdict(config)}


def load_transformer(
    path: str | Path, *, gpt_model: str | None = None, image_size: int | None = None, downsample: int = 16
) -> Transformer:
    """Rebuilds the model that a checkpoint holds, in eval mode on the CPU.

    Our files carry their configuration. For published ones the size comes from `gpt_model`, the rest (cells,
    codes, caption width, marks, own cells) from the names and shapes of the weights.

    Args:
      gpt_model: registry name; needed for published files whose args do not name it. A file that does say
        what it holds must be of that size and arithmetic.
      image_size: for `GPT-*` files, whose weights do not show the number of cells; LlamaGen's own say it in
        their args. There another size makes the grid anew, with a warning: as published, where the training
        of a stage and the sampling of its weights have a size each. All other files are refused at another.
      downsample: pixels per cell side, with `image_size`.
    Raises:
      UserError: what was given contradicts the file, or the file is none of a transformer.
    """
    content = load_checkpoint(path)
    _require_whole_model(content, path)
    args, state = checkpoint_args(content), transformer_state(content)
    config = configuration(content, path)
    if gpt_model is not None:
        require_named(gpt_model, content, path)
    if config is not None:
        _require_shapes(config, state, path)
    else:
        size = args.get("image_size") if image_size is None else image_size
        config = _config_from_shapes(path, state, gpt_model or args.get("gpt_model"), size, downsample)
        config = replace(config, **read_marker(content, path))
        trained_at = args.get("image_size", size)
        if size is not None and size != trained_at and POSITION_TABLE not in state:
            log.warning("%s was trained at %s px; its grid is made anew for %s px", path, trained_at, size)
    if image_size not in (None, config.grid * downsample):
        raise UserError(f"--image-size {image_size} contradicts {path}, which has {config.grid * downsample}")
    model = _build(config, path)
    load_weights(model, state, source=path)
    return model.eval()


def _require_shapes(config: ModelConfig, state: dict[str, Tensor], path: str | Path) -> None:
    """Refuses a configuration of another size than the weights have, before memory is taken for it."""
    shapes = {
        "tok_embeddings.weight": (config.vocab_size, config.dim),
        "cls_embedding.uncond_embedding": (config.cls_token_num, config.caption_dim),
        POSITION_TABLE: (1, config.block_size, config.dim),
    }
    for name, shape in shapes.items():
        if name in state and tuple(state[name].shape) != shape:
            raise UserError(
                f"{path} does not hold what its model_config says: misshapen: {name} (file "
                f"{tuple(state[name].shape)}, model {shape})"
            )
    layers = len({name.split(".")[1] for name in state if name.startswith("layers.")})
    if layers != config.n_layer:
        raise UserError(f"{path} holds {layers} layers; its model_config says {config.n_layer}")


def _build(config: ModelConfig, path: str | Path) -> Transformer:
    """The model of a configuration that came from a file."""
    try:
        if config.query_turn not in ("cells", "next_cells") or not 0 < config.block_size <= _MOST_CELLS:
            raise ValueError(f"query_turn {config.query_turn!r}, block_size {config.block_size}")
        return Transformer(config)
    except (ValueError, ArithmeticError, RuntimeError, TypeError) as error:
        raise UserError(f"{path}: no model can be made of its settings: {error}") from None


def _config_from_shapes(
    path: str | Path, state: dict[str, Tensor], name: str | None, image_size: int | None, downsample: int
) -> ModelConfig:
    if not isinstance(name, str) or name not in GPT_MODELS:
        raise UserError(
            f"{path} does not say which model it holds; pass --gpt-model, one of {sorted(GPT_MODELS)}"
        )
    try:
        vocab_size = state["tok_embeddings.weight"].shape[0]
        cls_token_num, caption_dim = state["cls_embedding.uncond_embedding"].shape
        cells = state[POSITION_TABLE].shape[1] if POSITION_TABLE in state else None
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"{path} is no text-conditioned transformer: it lacks {error}; it has {', '.join([*state][:4])}"
        ) from error
    if cells is None and image_size is not None:
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < downsample:
            raise UserError(
                f"{path}: image size {image_size!r}: must be a whole number, at least {downsample}"
            )
        if image_size % downsample:
            raise UserError(
                f"{path}: image size {image_size}: must be a multiple of the {downsample} pixels of a cell"
            )
        cells = (image_size // downsample) ** 2
    if cells is None:
        raise UserError(f"{path} does not show its image size; pass --image-size")
    return replace(
        GPT_MODELS[name],
        vocab_size=vocab_size,
        block_size=cells,
        cls_token_num=cls_token_num,
        caption_dim=caption_dim,
        mask_in_context=MARKS[0] in state,
        own_cell=OWN_CELL_TABLE in state,
    )
