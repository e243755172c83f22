"""Rewards of a user's own, for tests: some work, some do not."""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

from autoregressive.scaling.reward import Reward, RewardCase

number = 3


def brightness(images: list[Image.Image], cases: list[RewardCase]) -> list[float]:
    """The mean of all pixels, 0 to 1."""
    return [np.asarray(image).mean() / 255 for image in images]


def of_the_case(images: list[Image.Image], cases: list[RewardCase]) -> list[float]:
    """How many pixels are not the source's."""
    return [float((np.asarray(i) != np.asarray(c.source)).mean()) for i, c in zip(images, cases, strict=True)]


def raises_at_red(images: list[Image.Image], cases: list[RewardCase]) -> list[float]:
    if any("red" in case.caption for case in cases):
        raise ZeroDivisionError("no red, please")
    return brightness(images, cases)


def exits_at_red(images: list[Image.Image], cases: list[RewardCase]) -> list[float]:
    if any("red" in case.caption for case in cases):
        sys.exit("no red, please")
    return brightness(images, cases)


class ExitsWhenMade(Reward):
    def __init__(self) -> None:
        sys.exit(3)


def nan_at_blue(images: list[Image.Image], cases: list[RewardCase]) -> list[float]:
    return [float("nan") if "blue" in case.caption else 1.0 for case in cases]


def too_few(images: list[Image.Image], cases: list[RewardCase]) -> list[float]:
    return [1.0]


def hopeless_but_one(images: list[Image.Image], cases: list[RewardCase]) -> list[float]:
    """The least that float32 holds, as judges say it of pictures that they refuse."""
    return [0.0, *[float(np.finfo(np.float32).min)] * (len(images) - 1)]


def last_digits(images: list[Image.Image], cases: list[RewardCase]) -> list[float]:
    """The same, but for float32's rounding."""
    return [30.0, 30.000002, *[30.0] * (len(images) - 2)]
