"""Flags that say how codes are drawn, each declared once; see `shared`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.config import option
from runtime.flags.ranges import COUNT, COUNT_OR_NONE, GUIDANCE, PERIOD, SHARE_ABOVE_NONE, WEIGHT
from runtime.flags.unless_model import unless_model


def cfg_scale(what: str, *, of_model: bool = False) -> Any:
    """`--cfg-scale`."""
    return unless_model(7.5, GUIDANCE, what, of_model)


def cfg_interval(what: str, *, of_model: bool = False) -> Any:
    """`--cfg-interval`."""
    return unless_model(-1, PERIOD, f"{what}; -1 for all", of_model)


def temperature(of: str = "of the draws", *, of_model: bool = False) -> Any:
    """`--temperature`."""
    return unless_model(1.0, WEIGHT, of, of_model)


def top_k(what: str = "likeliest codes kept", *, of_model: bool = False) -> Any:
    """`--top-k`."""
    return unless_model(1000, COUNT_OR_NONE, f"{what}; 0 for all", of_model)


def top_p(what: str = "share of probability kept", *, of_model: bool = False) -> Any:
    """`--top-p`."""
    return unless_model(1.0, SHARE_ABOVE_NONE, what, of_model)


def mode(choices: Sequence[str]) -> Any:
    """`--mode`."""
    words = "how to edit; default: marks if the model has them, else zero_shot"
    return option(None, help=words, choices=choices)


def prompts() -> Any:
    """`--prompts`."""
    return option(None, help="texts to draw", aliases=["prompt"])


def reward(default: str, choices: Sequence[str], what: str = "judges the images") -> Any:
    """`--reward` of test-time scaling."""
    return option(default, help=f"what {what}", choices=choices)


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
