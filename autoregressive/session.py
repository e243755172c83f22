"""The old address of what `from autoregressive import …` gives; it goes with the next release."""

from __future__ import annotations

import warnings

from autoregressive.editing.session import OPTIONS, EditSession, EditTurn

__all__ = ["OPTIONS", "EditSession", "EditTurn"]

warnings.warn(
    "autoregressive.session has moved: write `from autoregressive import EditingPipeline, EditSession`",
    FutureWarning,
    stacklevel=2,
)
