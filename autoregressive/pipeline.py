"""The old address of what `from autoregressive import …` gives; it goes with the next release."""

from __future__ import annotations

import warnings

from autoregressive.editing.choices import MODES
from autoregressive.editing.models import Picture
from autoregressive.editing.pipeline import EditingPipeline, Mask
from autoregressive.editing.results import Drawing, EditResult, Progress

__all__ = ["MODES", "Drawing", "EditResult", "EditingPipeline", "Mask", "Picture", "Progress"]

warnings.warn(
    "autoregressive.pipeline has moved: write `from autoregressive import EditingPipeline, EditSession`",
    FutureWarning,
    stacklevel=2,
)
