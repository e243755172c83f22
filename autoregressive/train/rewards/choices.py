"""Words that choose what is trained by rewards; without PyTorch, so that flags can be read before it."""

from __future__ import annotations

TASKS = {
    "editing": "an editor (stage 2) told what to change",
    "infill": "a text-to-image model that edits zero-shot",
    "t2i": "a text-to-image model that draws",
}
REGIONS = ("given", "found", "all")
"""Which cells an edit may change: the list's mask, what the model finds itself, everything."""
