"""What a transformer computes with its weights and neither their names nor their shapes show.

A file of ours says it in its args. For loaders that do not read them, weights of another arithmetic than the
published one stand beside a marker: a tensor that such loaders report, where all other names would fit.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoregressive.models.config import GPT_MODELS, ModelConfig, identity_of, model_name
from runtime.checkpoint import checkpoint_args, settings_from
from runtime.errors import UserError

MARKER = "unpublished_arithmetic"
"""The marker's name. It holds the arithmetic as JSON, a float for each byte, which survives any cast."""
_PUBLISHED = {
    f.name: f.default
    for f in fields(ModelConfig)
    if f.name in ("query_turn", "rotary_base", "norm_eps", "own_cell")
}
_NAMES = (*_PUBLISHED, "n_head")
OWN_CELL_TABLE = "own_cell_embedding"


def _arithmetic(config: ModelConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in _NAMES}


def unpublished_arithmetic(config: ModelConfig) -> dict[str, Any]:
    """The arithmetic, if the published class would compute something else with such weights; else nothing."""
    sizes = [m for m in GPT_MODELS.values() if (m.dim, m.n_layer) == (config.dim, config.n_layer)]
    own = _arithmetic(config)
    heads_fit = not sizes or any(m.n_head == config.n_head for m in sizes)
    return {} if heads_fit and own.items() >= _PUBLISHED.items() else own


def marked(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """`state` as it goes into a file: with the marker, unless the arithmetic is the published one."""
    return _with_marker(state, unpublished_arithmetic(config))


def marked_like(state: dict[str, Tensor], content: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    """`marked` for weights out of another file, which may be of a version that wrote no marker.

    Args:
      content, path: of that file.
    """
    config = configuration(content, path)
    return _with_marker(state, read_marker(content, path)) if config is None else marked(state, config)


def _with_marker(state: dict[str, Tensor], own: dict[str, Any]) -> dict[str, Tensor]:
    kinds = {weight.dtype for weight in state.values()} & {torch.float16, torch.bfloat16}
    note = torch.tensor(list(json.dumps(own).encode()), dtype=kinds.pop() if kinds else torch.float32)
    return {**state, MARKER: note} if own else state


def configuration(content: dict[str, Any], path: str | Path) -> ModelConfig | None:
    """That of a file of ours; published files hold none.

    Raises:
      UserError: it is there, but is no configuration, or another one than the marker tells.
    """
    args = checkpoint_args(content)
    if "model_config" not in args:
        return None
    config = settings_from(ModelConfig, args["model_config"], path, "model_config")
    if read_marker(content, path) not in ({}, _arithmetic(config)):
        raise UserError(f"{path} contradicts itself: its model_config and its {MARKER} differ")
    return config


def read_marker(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """What the marker of a file says, if it has one."""
    note = (content.get("ema") or content.get("model") or {}).get(MARKER)
    if note is None:
        return {}
    try:
        said = json.loads(bytes(note[:1024].to(torch.uint8).tolist()))
        return _arithmetic(settings_from(ModelConfig, {"dim": 1, "n_layer": 1, **said}, path, MARKER))
    except (ValueError, TypeError, IndexError):
        raise UserError(
            f"{path}: its {MARKER} cannot be read, so nobody knows how its weights are used; get it again"
        ) from None


def known_of(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The size and the arithmetic of the model in a file, as far as the file says them."""
    config = configuration(content, path)
    if config is not None:
        return identity_of(config)
    name = checkpoint_args(content).get("gpt_model")
    named = identity_of(GPT_MODELS[name]) if isinstance(name, str) and name in GPT_MODELS else {}
    named.pop("any_order", None)  # NEP's files may name the raster model that they began as
    marker = read_marker(content, path)
    marker.pop("own_cell", None)
    return named | marker


def require_same_arithmetic(config: ModelConfig, content: dict[str, Any], path: str | Path) -> None:
    """Refuses a checkpoint whose weights fit by name and shape, but were trained to be used otherwise.

    Args:
      config: of the model that is to take the weights.
      content: of the checkpoint, as `load_checkpoint` gives it. One that does not say how it was trained is a
        published one.
    Raises:
      UserError: names what differs, with both values, and the model to choose.
    """
    trained = _PUBLISHED | known_of(content, path)
    del trained["own_cell"]  # the names of the weights show it: `require_same_tables`
    arithmetic = {name: trained[name] for name in _NAMES if name in trained}
    if differing := _differing(arithmetic, _arithmetic(config), "here"):
        name = model_name(identity_of(config) | trained | {"any_order": config.any_order})
        raise UserError(
            f"{path} was trained with another arithmetic: {differing}. Its weights would load and "
            "give noise; " + (f"give --gpt-model {name}" if name else "no --gpt-model of this version has it")
        )


def require_same_tables(config: ModelConfig, state: dict[str, Tensor], path: str | Path) -> None:
    """Refuses weights of a model that is told each slot's own cell for one that is not, and the reverse."""
    there = OWN_CELL_TABLE in state
    if there != config.own_cell:
        raise UserError(
            f"{path} was trained with another arithmetic: own_cell is {there} there and {config.own_cell} "
            f"here; {'give' if there else 'leave out'} --own-cell"
        )


def require_named(name: str, content: dict[str, Any], path: str | Path) -> None:
    """Refuses the name of a model that contradicts what the file says it holds.

    Raises:
      UserError: names what differs, and the name to give.
    """
    if name not in GPT_MODELS:
        raise UserError(f"--gpt-model {name} is not known; use one of {', '.join(GPT_MODELS)}")
    known = known_of(content, path)
    if differing := _differing(known, identity_of(GPT_MODELS[name]), f"in {name}"):
        fitting = model_name(known)
        raise UserError(
            f"--gpt-model {name} contradicts {path}: {differing}; "
            + (f"give --gpt-model {fitting}" if fitting else "leave it out: the file says what it holds")
        )


def _differing(there: dict[str, Any], here: dict[str, Any], place: str) -> str:
    return "; ".join(
        f"{name} is {value!r} there and {here[name]!r} {place}"
        for name, value in there.items()
        if value != here[name]
    )
