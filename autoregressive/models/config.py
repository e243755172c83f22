"""What shapes a transformer, and the models by name; flags choose from them, so it does without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """Everything that shapes a transformer."""

    dim: int
    n_layer: int
    n_head: int
    any_order: bool = True
    """R-GPT: a target-aware position table, text not rotated. Otherwise LlamaGen's GPT."""
    query_turn: str = "cells"
    """The layout's field whose cell turns a slot's query: "cells", where it stands, as published, or
    "next_cells", what it predicts. Only then do the neighbours of that cell stand at fixed distances in a
    random order (the double positions of Pannatier et al. 2024). Keys turn by where they stand."""
    rotary_base: float = 10000.0
    """Of the rotary frequencies; small grids are told apart better by a small one."""
    own_cell: bool = False
    """A slot's input says where it stands too, by a learned table; in published models by its rotation alone.
    In raster order that follows from the next cell, in a random one from nothing else."""
    mask_in_context: bool = False
    """Has the two marks, edit and keep."""
    vocab_size: int = 16384
    block_size: int = 256
    """N, the number of cells; a square number."""
    cls_token_num: int = 120
    caption_dim: int = 2048
    token_dropout_p: float = 0.1
    resid_dropout_p: float = 0.1
    ffn_dropout_p: float = 0.1
    attn_dropout_p: float = 0.0
    drop_path_rate: float = 0.0
    norm_eps: float = 1e-5

    @property
    def grid(self) -> int:
        return round(self.block_size**0.5)

    @property
    def hidden_dim(self) -> int:
        """Width inside the feed-forward network: 2/3 · 4D, rounded up to a multiple of 256."""
        return -(-int(2 * 4 * self.dim / 3) // 256) * 256


BLOCK_MATRICES = ("wqkv", "wo", "w1", "w2", "w3")
"""The linear layers of a block: two of its attention, three of its feed-forward network."""
_SIZES = {  # name: layers, heads, width; LlamaGen's table, then ours for laptops and tests
    "B": (12, 12, 768),
    "L": (24, 16, 1024),
    "XL": (36, 20, 1280),
    "XXL": (48, 24, 1536),
    "XXXL": (48, 40, 2560),
    "1B": (22, 32, 2048),
    "3B": (24, 32, 3200),
    "7B": (32, 32, 4096),
    "micro": (4, 3, 96),
    "mini": (4, 6, 192),
    "midi": (6, 8, 256),
    "tiny": (2, 4, 64),
}
GPT_MODELS = {
    f"{prefix}{size}": ModelConfig(dim=dim, n_layer=layers, n_head=heads, any_order=prefix == "R-GPT-")
    for prefix in ("GPT-", "R-GPT-")
    for size, (layers, heads, dim) in _SIZES.items()
}
GPT_MODELS["GPT-XL-RAR"] = GPT_MODELS["R-GPT-XL"]  # the name in the published 512 px command
# A small model in a short training finds out what neighbours say only if both help it to find them.
for _name in ("R-GPT-micro", "R-GPT-mini", "R-GPT-midi"):
    GPT_MODELS[_name] = replace(GPT_MODELS[_name], query_turn="next_cells", rotary_base=20.0)
_NAMED = ("dim", "n_layer", "any_order", "query_turn", "rotary_base", "norm_eps", "n_head")


def identity_of(config: ModelConfig) -> dict[str, Any]:
    """What a name of the registry stands for; own cells, marks, images and texts are settings beside it."""
    return {name: getattr(config, name) for name in _NAMED}


def model_name(known: Mapping[str, Any]) -> str | None:
    """The registry's first name for a model of which some of `identity_of` is known, if it has one."""
    return next((n for n, model in GPT_MODELS.items() if known.items() <= identity_of(model).items()), None)
