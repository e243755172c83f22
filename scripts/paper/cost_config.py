"""The flags of edit_cost.py."""

from __future__ import annotations

from dataclasses import dataclass

from autoregressive.sample.flags import SampleMagicBrush
from runtime.flags import shared


@dataclass(frozen=True)
class EditCost(SampleMagicBrush):
    """Measures what an edit costs."""

    num_edits: int = shared.num_edits(20, "edits that are timed, after one that is not")
