"""What the files of a checkpoint's folder are called, and what is in it."""

from __future__ import annotations

from typing import Any

SUFFIX = ".dcp"
STATE, MANIFEST = "state.pt", "manifest.sha256"
METADATA = ".metadata"
"""By DCP: which part of a tensor stands in which file."""
Place = tuple[Any, ...]
"""The keys that lead to a value in nested dicts and lists."""
