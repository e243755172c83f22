"""Where the weights are in a checkpoint: what they lie in, and what stands before their names.

DeepSpeed saves {"module": weights}, Lightning {"state_dict": weights}, others {"state": {"model": weights}};
`torch.compile` puts "_orig_mod." before names, DistributedDataParallel and AveragedModel "module.", around
the whole model or around a part of it, one inside the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.errors import UserError
from runtime.logging import get_logger

log = get_logger(__name__)
CONTAINERS = ("model", "module", "state_dict", "model_state_dict", "state")
"""What holds weights, the first that is there."""
AVERAGED = ("ema", "model_ema", "ema_state_dict", "state_dict_ema")
"""What holds averages of them."""
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_LIGHTNING = "model."  # before all names, where a module holds the network as its `model`
_COUNTER = "n_averaged"  # of torch's AveragedModel, beside the weights
_MOST_DEEP = 4


def unwrap(content: dict[Any, Any], path: str | Path) -> dict[str, Any]:
    """A checkpoint with its weights as "model", averages of them, if any, as "ema", and the rest as it is.

    Averages alone are both. What lies beside weights that are deep inside comes to the top, too.

    Raises:
      UserError: it holds no weights, or two of one name.
    """
    seen: list[str] = []
    found = _find(content, path, (), seen)
    if found is None:
        keys = "; ".join(seen) or "no names"
        raise UserError(
            f"{path} has {keys}; a checkpoint needs weights: tensors by their names, or these as "
            f"{', '.join((*CONTAINERS, *AVERAGED))}, at most {_MOST_DEEP} deep"
        )
    return found


def _find(content: Any, path: str | Path, within: tuple[str, ...], seen: list[str]) -> dict[str, Any] | None:
    """The same of what lies in the containers `within`, or None; `seen` gets what lies there instead."""
    if not isinstance(content, dict) or len(within) > _MOST_DEEP:
        return None
    if within and not content or content and all(isinstance(value, Tensor) for value in content.values()):
        return {"model": own_names(content, path)}
    found: dict[str, dict[str, Any]] = {}
    for names, part in ((CONTAINERS, "model"), (AVERAGED, "ema")):
        for name in names:
            if part not in found and content.get(name) is not None:
                inside = _find(content[name], path, (*within, name), seen)
                if inside is not None:
                    found[part], content = inside, {n: v for n, v in content.items() if n != name}
                elif part == "ema":
                    log.warning("%s: its %s holds no weights by name and is not used", path, name)
    if not found:
        keys = sorted(map(str, content))
        place = f" under {'.'.join(within)}" if within else ""
        seen.append(f"the keys {keys[:8]}{' and more' if len(keys) > 8 else ''}{place}")
        return None
    averages = found.get("ema", {}).get("model")
    beside = {name: value for name, value in content.items() if name not in ("model", "ema")}
    whole = (found.get("model") or found["ema"]) | beside
    return whole | ({"ema": averages} if averages else {})


def own_names(state: dict[Any, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Weights by the names that the bare model gives them.

    Raises:
      UserError: names that are no words, two that become one, or a weight that is not all there.
    """
    own: dict[str, str] = {}
    for name in state:
        if not isinstance(name, str):
            raise UserError(f"{path}: a weight's name is {name!r}; names are words such as 'norm.weight'")
        bare = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if bare == _COUNTER:
            continue
        if bare in own:
            raise UserError(f"{path} holds two weights for {bare}: {own[bare]} and {name}; keep one of them")
        own[bare] = name
        _require_own_memory(state[name], name, path)
    shared = _LIGHTNING if all(bare.startswith(_LIGHTNING) for bare in own) else ""
    return {bare.removeprefix(shared): state[name] for bare, name in own.items()}


def _require_own_memory(weight: Tensor, name: str, path: str | Path) -> None:
    """Refuses a weight of few numbers that are repeated: a model of its shape takes more than its file."""
    if type(weight) is not Tensor or weight.layout is not torch.strided or weight.is_meta:
        return
    held = weight.untyped_storage().nbytes()
    if weight.numel() * weight.element_size() > held:
        raise UserError(
            f"{path}: {name} is misshapen: {tuple(weight.shape)} of only {held} bytes, which are repeated; "
            "save a contiguous copy of it"
        )
