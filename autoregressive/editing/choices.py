"""Words that choose how an edit is made; without PyTorch, so that flags can be read before it is imported."""

from __future__ import annotations

MODES = ("marks", "no_marks", "zero_shot")
"""What the model reads: source and marks; the source alone; only what is kept."""
COMPOSITES = ("cells", "mask", "none", "published")
"""Which pixels come from the decoder, see `changed_region`."""
CROPS = ("none", "auto", "region")
"""What the model sees of a picture, see `EditOptions.crop`."""
AUTO = "auto"
"""Stands in the place of a mask that is to be found."""
