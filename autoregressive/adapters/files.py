"""Adapters on disk: peft's folders (`adapter_config.json`, `adapter_model.safetensors`), and checkpoints.

Letters: r rank.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoregressive.adapters.lora import TABLES, Lora, peft_config
from autoregressive.models.weights import ADAPTER, transformer_state
from runtime.checkpoint import checkpoint_args, load_checkpoint, save_safetensors, settings_from
from runtime.errors import UserError
from runtime.files import writing
from runtime.sharding.folder import is_folder

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NAMES = {"lora_A.weight": "down", "lora_B.weight": "up", "lora_magnitude_vector": "magnitude"}
# What peft's LoRA may have beside, and what it is where it does nothing.
_PLAIN = {
    "bias": "none",
    "lora_bias": False,
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "layer_replication": None,
    "use_bdlora": None,
    "arrow_config": None,
    "kasa_config": None,
    "alora_invocation_tokens": None,
    "use_qalora": False,
    "velora_config": None,
    "monteclora_config": None,
}


@dataclass(frozen=True)
class LowRank:
    """Of one layer: A (r, in), B (out, r), alpha/r, and DoRA's trained lengths of its rows (out,)."""

    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None = None


@dataclass(frozen=True)
class Adapter:
    """What is added to a model.

    Attributes:
      path: where it comes from.
      layers: by the names of the layers.
      tables: that take the place of the model's, by name.
      base: the file of the weights that it was trained on, as far as known.
      base_sample: some of these; None: of an adapter that was not trained here.
      args: what its checkpoint says of the model.
    """

    path: Path
    layers: dict[str, LowRank]
    tables: dict[str, Tensor]
    base: str | None
    base_sample: tuple[float, ...] | None
    args: dict[str, Any]


def read_adapter(path: str | Path) -> Adapter:
    """Reads a folder in peft's format, or a checkpoint of a training with LoRA (its averaged weights).

    Raises:
      UserError: it is missing, damaged, no adapter, or one of a kind that is not known here.
    """
    path = Path(path)
    if path.is_dir() and not is_folder(path):
        return _read_folder(path)
    if not path.exists():
        raise UserError(f"adapter {path} does not exist; give a folder with {CONFIG}, or a checkpoint")
    content = load_checkpoint(path)
    if ADAPTER not in content:
        raise UserError(f"{path} holds a whole model, no adapter: give it as --gpt-ckpt")
    lora = settings_from(Lora, content[ADAPTER], path, ADAPTER)
    weights = {_peft_name(name): weight for name, weight in transformer_state(content).items()}
    return _adapter(path, weights, lora.alpha / lora.rank, lora.dora, lora, checkpoint_args(content))


def write_adapter(content: dict[str, Any], folder: str | Path, dtype: torch.dtype, path: str | Path) -> None:
    """Writes the adapter of a checkpoint in peft's format, which `read_adapter` and peft read.

    Args:
      content: of the checkpoint `path`; its averaged weights are taken, if there are any.
    Raises:
      UserError: peft is not installed, or the disk is full or gone.
    """
    lora, folder = settings_from(Lora, content[ADAPTER], path, ADAPTER), Path(folder)
    args = {n: v for n, v in checkpoint_args(content).items() if n in ("gpt_model", "model_config")}
    config = peft_config(lora.rank, lora.alpha, dora=lora.dora, base=lora.base, targets=lora.targets)
    config.inference_mode = True
    weights = {
        _PREFIX + _peft_name(name): weight.to(dtype) for name, weight in transformer_state(content).items()
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(folder)
    save_safetensors(folder / WEIGHTS, weights, {**args, ADAPTER: asdict(lora)})


def _peft_name(name: str) -> str:
    """That of a file, for that of a parameter, which has the adapter's name in it."""
    return name.replace(".default", "").replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def _read_folder(folder: Path) -> Adapter:
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8-sig"))
        kind, rank, alpha = (settings.get(n) for n in ("peft_type", "r", "lora_alpha"))
        if kind != "LORA":
            raise ValueError(f"its peft_type is {kind!r}, and LORA is known here")
        if not (type(rank) is int and rank > 0 and type(alpha) in (int, float) and math.isfinite(alpha)):
            raise ValueError(f"its rank is {rank!r} and its alpha {alpha!r}")
        for name in ("use_rslora", "use_dora"):
            if not isinstance(settings.get(name), bool | None):
                raise ValueError(f"its {name} is {settings[name]!r}, neither true nor false")
        if odd := [n for n, plain in _PLAIN.items() if settings.get(n, plain) not in (plain, None)]:
            raise ValueError(f"it has {', '.join(f'{n} {settings[n]!r}' for n in odd)}, not known here")
    except FileNotFoundError:
        raise UserError(f"{folder} is no adapter: it has no {CONFIG}") from None
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / CONFIG}: {error}; give an adapter that peft has saved") from None
    content = load_checkpoint(folder / WEIGHTS)
    args = checkpoint_args(content)
    lora = settings_from(Lora, args[ADAPTER], folder / WEIGHTS, ADAPTER) if ADAPTER in args else None
    weights = {name.removeprefix(_PREFIX): weight for name, weight in content["model"].items()}
    scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    adapter = _adapter(folder, weights, scale, bool(settings.get("use_dora")), lora, args)
    for name, part in adapter.layers.items():
        if len(part.down) != rank:
            raise UserError(f"{folder}: {name} has rank {len(part.down)}, and {CONFIG} says {rank}")
    return adapter


def _go_together(down: Tensor, up: Tensor, magnitude: Tensor | None = None) -> bool:
    matrices = down.dim() == 2 and up.dim() == 2 and len(down) == up.shape[1]
    return matrices and (magnitude is None or magnitude.shape == up.shape[:1])


def _adapter(
    path: Path,
    weights: dict[str, Tensor],
    scale: float,
    dora: bool,
    lora: Lora | None,
    args: dict[str, Any],
) -> Adapter:
    """Sorts weights by the names of files into layers and tables."""
    parts: dict[str, dict[str, Tensor]] = {}
    tables = {name: weight for name, weight in weights.items() if name in TABLES}
    for name, weight in weights.items():
        ending = next((ending for ending in _NAMES if name.endswith("." + ending)), None)
        if ending is not None:
            parts.setdefault(name.removesuffix("." + ending), {})[_NAMES[ending]] = weight
        elif name not in tables:
            raise UserError(f"{path} holds {name}, which is no part of an adapter of a transformer here")
    wanted = {"down", "up", *(["magnitude"] if dora else [])}
    for name, found in parts.items():
        if found.keys() != wanted or not _go_together(**found):
            raise UserError(f"{path} is damaged: the parts of {name} do not go together; get it again")
    if not parts:
        raise UserError(f"{path} adapts no layer")
    layers = {name: LowRank(**found, scale=scale) for name, found in parts.items()}
    base, sample = (None, None) if lora is None else (lora.base, lora.base_sample)
    return Adapter(path, layers, tables, base, sample, args)
