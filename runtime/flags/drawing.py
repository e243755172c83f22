"""Flags that say how codes are drawn, each declared once; see `shared`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.config import option
from runtime.flags.ranges import COUNT, COUNT_OR_NONE, GUIDANCE, PERIOD, SHARE_ABOVE_NONE, WEIGHT


def cfg_scale(what: str) -> Any:
    """`--cfg-scale`."""
    return option(7.5, within=GUIDANCE, help=what)


def cfg_interval(what: str) -> Any:
    """`--cfg-interval`."""
    return option(-1, within=PERIOD, help=f"{what}; -1 for all")


def temperature(of: str = "of the draws") -> Any:
    """`--temperature`."""
    return option(1.0, within=WEIGHT, help=of)


def top_k(what: str = "likeliest codes kept") -> Any:
    """`--top-k`."""
    return option(1000, within=COUNT_OR_NONE, help=f"{what}; 0 for all")


def top_p(what: str = "share of probability kept") -> Any:
    """`--top-p`."""
    return option(1.0, within=SHARE_ABOVE_NONE, help=what)


def mode(choices: Sequence[str]) -> Any:
    """`--mode`."""
    words = "how to edit; default: marks if the model has them, else zero_shot"
    return option(None, help=words, choices=choices)


def prompts() -> Any:
    """`--prompts`."""
    return option(None, help="texts to draw", aliases=["prompt"])


def rounds() -> Any:
    """`--rounds` of test-time scaling."""
    return option(4, within=COUNT, help="attempts to improve an image")


def candidates() -> Any:
    """`--candidates` of test-time scaling."""
    return option(4, within=COUNT, help="ways in which a round draws its cells, all at once")


def order(what: str, choices: Sequence[str]) -> Any:
    """`--order`; the first choice, raster order, is the default."""
    return option(choices[0], help=what, choices=choices)


def orders(default: Sequence[str], choices: Sequence[str], what: str) -> Any:
    """`--orders` of a program that compares them."""
    return option(list(default), help=what, choices=choices)


def regions(default: Sequence[str], choices: Sequence[str], what: str) -> Any:
    """`--regions` of edits: those of masks, those that the model finds, everything."""
    return option(list(default), help=what, choices=choices)
