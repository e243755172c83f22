"""Where the models are that a name means."""

from __future__ import annotations

from pathlib import Path

from autoregressive.editing.pretrained import find_folder

SHIPPED = "shapes"


def find_models(name: str) -> Path:
    """The folder of "shapes", which comes with the project; a folder as it is; else a hub's model."""
    shipped = Path(__file__).resolve().parents[1] / "pretrained_models" / SHIPPED
    return shipped if name == SHIPPED else find_folder(name)
