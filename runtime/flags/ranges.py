"""What a number may be: the range of a numeric flag, in words for `--help` and as the check of its values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runtime.errors import UserError

_MOST = 2**63 - 1  # what a 64-bit integer holds: the libraries below take no more


@dataclass(frozen=True)
class Range:
    """The finite numbers between two bounds, and `also` the ones that mean something else, as -1 for none."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    also: tuple[float, ...] = ()

    def __contains__(self, value: float) -> bool:
        if value in self.also:
            return True
        return (
            (abs(value) <= _MOST if isinstance(value, int) else math.isfinite(value))
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            bounds = [f"between {self.at_least} and {self.at_most}"]
            return ", or ".join([*bounds, *map(str, self.also)])
        bounds = [
            f"{words} {bound}"
            for words, bound in (
                ("at least", self.at_least),
                ("above", self.above),
                ("at most", self.at_most),
                ("below", self.below),
            )
            if bound is not None
        ]
        return ", or ".join([" and ".join(bounds), *map(str, self.also)])

    def check(self, name: str, value: Any) -> None:
        """Raises UserError unless `value`, a number or a list of numbers, is in the range; None is.

        Args:
          name: what the message begins with, as `--lr`.
        """
        for number in _numbers(value):
            if number not in self:
                kind = "" if isinstance(number, int) and abs(number) <= _MOST else "a number "
                too_long = ", of 64 bits" if isinstance(number, int) and abs(number) > _MOST else ""
                raise UserError(f"{name} {number}: must be {kind}{self}{too_long}")


def _numbers(value: Any) -> Iterator[float]:
    for number in value if isinstance(value, list | tuple) else [value]:
        if number is not None:
            yield number


COUNT = Range(at_least=1)
COUNT_OR_NONE = Range(at_least=0)
COUNT_OR_NEVER = Range(at_least=1, also=(-1,))
PERIOD = Range(at_least=-1)  # steps between two of something; 0 or -1: never
SIZE = Range(at_least=1, at_most=65_536)  # pixels of a side, widths, lengths
SEED = Range(at_least=0, at_most=2**32 - 1)  # seeds are multiplied: the products must fit 64 bits
WORKERS = Range(at_least=0, at_most=4096)
THREADS = Range(at_least=1, at_most=4096)
SHARE = Range(at_least=0, at_most=1)
SHARE_ABOVE_NONE = Range(above=0, at_most=1)
RATE = Range(at_least=0, below=1)  # dropouts and decays, of which 1 leaves nothing
LEARNING_RATE = Range(at_least=0, at_most=1000)
WEIGHT = Range(at_least=0, at_most=1_000_000)
GUIDANCE = Range(at_least=-1000, at_most=1000)
POSITIVE = Range(above=0)
SCALE = Range(above=0, at_most=1000)
PIXELS = Range(at_least=-65_536, at_most=65_536)  # to widen by; below 0: to shrink
