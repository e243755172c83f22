"""How codes are drawn: flags and callers say it without PyTorch, `decoding.sampling` does it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from runtime.errors import UserError

DRAWS = ("gumbel", "inverse")
GUESSES = {
    "independent": "what each cell would be if it came first; from the prompt's own pass; right most often",
    "source": "the source's codes, of edits",
    "last": "the code drawn last",
}


def derived_seed(*words: int) -> int:
    """A seed of 32 bits that all of the words, 0 or more, decide: such as another seed and what it is for."""
    return int(np.random.SeedSequence(words).generate_state(1)[0])


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn; the defaults are those of the published commands."""

    cfg_scale: float = 7.5
    """Guidance; 1 or less runs no unconditional rows."""
    cfg_interval: int = -1
    """k >= 0: guidance in the prefill and the first k+1 decoding steps only."""
    temperature: float = 1.0
    """0 takes the likeliest code, or one of several that are equally likely."""
    top_k: int = 1000
    """0 keeps all codes."""
    top_p: float = 1.0
    sample_logits: bool = True
    """False takes the likeliest code (argmax)."""
    draw: str = "gumbel"
    """"gumbel": noise of its own for every (seed, cell, code), so that no draw depends on another; "inverse":
    the i-th number of the seed for the i-th cell drawn."""
    window: int | None = None
    """Cells that a pass may settle, by guesses that it checks: a seed gives the same codes at any window. 1
    is a pass a cell, None the engine's default."""
    guesses: str = "independent"
    """The first guesses of a window, one of `GUESSES`; they decide the number of passes, never the codes."""
    parallel: int = 1
    """More than 1: so many cells of a pass are drawn without knowing each other, but no more than are drawn
    already (Pang et al. 2024). Fewer passes than windows need, and another distribution."""

    @property
    def num_lanes(self) -> int:
        """Lanes of the cache that a row takes: with guidance two."""
        return 2 if self.cfg_scale > 1 else 1

    def __post_init__(self) -> None:
        for name, kind, wanted in (
            ("cfg_scale", Real, "a number"),
            ("cfg_interval", Integral, "a whole number"),
            ("temperature", Real, "a number"),
            ("top_k", Integral, "a whole number"),
            ("top_p", Real, "a number"),
            ("sample_logits", bool | np.bool_, "True or False"),
            ("draw", str, "a string"),
            ("window", Integral | None, "a whole number, or None for the device's"),
            ("guesses", str, "a string"),
            ("parallel", Integral, "a whole number"),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool) and kind != bool | np.bool_:
                raise UserError(f"{name} {value!r} is of type {type(value).__name__}: give {wanted}")
            if isinstance(value, np.generic):  # json, which settings are saved as, knows none of NumPy's
                object.__setattr__(self, name, value.item())
        for name, fits, wanted in (
            ("cfg_scale", math.isfinite(self.cfg_scale), "a finite number; 1 is without guidance"),
            ("temperature", 0 <= self.temperature < math.inf, "a finite number, 0 or more"),
            ("top_k", self.top_k >= 0, "0, which keeps all codes, or more"),
            ("top_p", 0 < self.top_p <= 1, "a share above 0, up to 1, which keeps all codes"),
            ("draw", self.draw in DRAWS, f"one of {', '.join(DRAWS)}"),
            ("window", self.window is None or 1 <= self.window <= 64, "1, which checks no guesses, to 64"),
            ("guesses", self.guesses in GUESSES, f"one of {', '.join(GUESSES)}"),
            ("parallel", self.parallel >= 1, "1, which draws each cell knowing all before it, or more"),
        ):
            if not fits:
                raise UserError(f"{name} {getattr(self, name)}: give {wanted}")
