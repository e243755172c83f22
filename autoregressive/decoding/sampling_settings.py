"""How codes are drawn: flags and callers say it without PyTorch, `decoding.sampling` does it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from runtime.errors import UserError


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

    def __post_init__(self) -> None:
        for name, kind, wanted in (
            ("cfg_scale", Real, "a number"),
            ("cfg_interval", Integral, "a whole number"),
            ("temperature", Real, "a number"),
            ("top_k", Integral, "a whole number"),
            ("top_p", Real, "a number"),
            ("sample_logits", bool | np.bool_, "True or False"),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool) and kind in (Real, Integral):
                raise UserError(f"{name} {value!r} is of type {type(value).__name__}: give {wanted}")
            if isinstance(value, np.generic):  # json, which settings are saved as, knows none of NumPy's
                object.__setattr__(self, name, value.item())
        for name, fits, wanted in (
            ("cfg_scale", math.isfinite(self.cfg_scale), "a finite number; 1 is without guidance"),
            ("temperature", 0 <= self.temperature < math.inf, "a finite number, 0 or more"),
            ("top_k", self.top_k >= 0, "0, which keeps all codes, or more"),
            ("top_p", 0 < self.top_p <= 1, "a share above 0, up to 1, which keeps all codes"),
        ):
            if not fits:
                raise UserError(f"{name} {getattr(self, name)}: give {wanted}")
