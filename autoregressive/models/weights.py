"""From checkpoint files to transformers: LlamaGen's, RLlamaGen's, NEP's and ours."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoregressive.models.config import GPT_MODELS, ModelConfig
from autoregressive.models.gpt import Transformer
from runtime.checkpoint import checkpoint_args, load_checkpoint, load_weights
from runtime.errors import UserError
from runtime.logging import get_logger

POSITION_TABLE = "target_aware_pos_embed_postfix"
OWN_CELL_TABLE = "own_cell_embedding"
MARKS = ("mask_embedding", "unmask_embedding")
# Of the head's rows, against unit codes; measured: 1 learns slower, 20 no faster.
CODEBOOK_HEAD_SCALE = 8.0
# What is computed with the weights, as published; names and shapes show at most `own_cell`.
_ARITHMETIC = ("query_turn", "rotary_base", "norm_eps", "own_cell")
_DEFAULTS = {f.name: f.default for f in fields(ModelConfig) if f.name in _ARITHMETIC}
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
    """The weights of a checkpoint, EMA ones where there are, without wrapper prefixes."""
    state = content.get("ema") or content["model"]
    return {n.removeprefix("module.").removeprefix("_orig_mod."): t for n, t in state.items()}


def require_same_arithmetic(config: ModelConfig, content: dict[str, Any], path: str | Path) -> None:
    """Refuses a checkpoint whose weights fit by name and shape, but were trained to be used otherwise.

    Args:
      config: of the model that is to take the weights.
      content: of the checkpoint, as `load_checkpoint` gives it. One that does not say how it was trained is a
        published one.
    Raises:
      UserError: names what differs, with both values.
    """
    args = checkpoint_args(content)
    if "model_config" in args:
        trained = {name: args["model_config"].get(name, default) for name, default in _DEFAULTS.items()}
        trained["n_head"] = args["model_config"].get("n_head", config.n_head)
    elif args.get("gpt_model") in GPT_MODELS:
        trained = {name: getattr(GPT_MODELS[args["gpt_model"]], name) for name in (*_DEFAULTS, "n_head")}
    else:
        trained = _DEFAULTS
    differing = [
        f"{name} is {value!r} there and {getattr(config, name)!r} here"
        for name, value in trained.items()
        if value != getattr(config, name)
    ]
    if differing:
        raise UserError(
            f"{path} was trained with another arithmetic: {'; '.join(differing)}. Its weights would load and "
            "give noise; choose the --gpt-model (and --own-cell) that it was trained with"
        )


def initialise_from(model: Transformer, path: str | Path) -> None:
    """Starts `model` from a checkpoint of this stage or of the one before it.

    What an earlier stage lacks keeps its fresh values: the position table (LlamaGen → R-GPT) and the two
    marks (RLlamaGen → NEP). Tables of another grid are resized, bicubic.

    Raises:
      UserError: any other difference, by name.
    """
    content = load_checkpoint(path)
    require_same_arithmetic(model.config, content, path)
    state = transformer_state(content)
    for name in (POSITION_TABLE, OWN_CELL_TABLE):
        if name not in state or name not in model.state_dict() or state[name].dim() != 3:
            continue
        before = state[name].shape[1]
        state[name] = resize_position_table(state[name], model.config.block_size)
        if before != model.config.block_size:
            log.info("%s: %s resized from %d to %d cells", path, name, before, model.config.block_size)
    absent = [n for n in (POSITION_TABLE, *MARKS) if n in model.state_dict() and n not in state]
    # The marks come as a pair; half a pair is a damaged file, which load_weights then reports.
    may_miss = [n for n in absent if n == POSITION_TABLE or not any(m in state for m in MARKS)]
    load_weights(model, state, source=path, may_miss=may_miss)
    if absent:
        log.info("%s has no %s: fresh values kept", path, ", ".join(absent))


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
      gpt_model: registry name; needed for published files whose args do not name it.
      image_size: for `GPT-*` files, whose weights do not show the number of cells; LlamaGen's own say it in
        their args.
      downsample: pixels per cell side, with `image_size`.
    """
    content = load_checkpoint(path)
    args, state = checkpoint_args(content), transformer_state(content)
    if "model_config" in args:
        known = {f.name for f in fields(ModelConfig)}
        unknown = sorted(set(args["model_config"]) - known)
        if unknown:
            raise UserError(f"{path} was written by a newer version: unknown settings {', '.join(unknown)}")
        config = ModelConfig(**args["model_config"])
    else:
        size = args.get("image_size") if image_size is None else image_size
        config = _config_from_shapes(path, state, gpt_model or args.get("gpt_model"), size, downsample)
    model = Transformer(config)
    load_weights(model, state, source=path)
    return model.eval()


def _config_from_shapes(
    path: str | Path, state: dict[str, Tensor], name: str | None, image_size: int | None, downsample: int
) -> ModelConfig:
    if name not in GPT_MODELS:
        raise UserError(
            f"{path} does not say which model it holds; pass --gpt-model, one of {sorted(GPT_MODELS)}"
        )
    try:
        vocab_size = state["tok_embeddings.weight"].shape[0]
        cls_token_num, caption_dim = state["cls_embedding.uncond_embedding"].shape
    except KeyError as error:
        raise UserError(f"{path} is no text-conditioned transformer: it lacks {error}") from error
    if POSITION_TABLE in state:
        cells = state[POSITION_TABLE].shape[1]
    elif image_size is not None:
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < downsample:
            raise UserError(
                f"{path}: image size {image_size!r}: must be a whole number, at least {downsample}"
            )
        if image_size % downsample:
            raise UserError(
                f"{path}: image size {image_size}: must be a multiple of the {downsample} pixels of a cell"
            )
        cells = (image_size // downsample) ** 2
    else:
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
