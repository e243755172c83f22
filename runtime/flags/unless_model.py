"""Flags whose value a folder of models says, where one is given and the flag is not."""

from __future__ import annotations

from typing import Any

from runtime.config import option
from runtime.flags.ranges import Range


def unless_model(default: float | None, within: Range, words: str, of_model: bool) -> Any:
    """A number; with `of_model` None stands for what the folder says, or for `default` without a folder."""
    if of_model:
        return option(None, within=within, help=f"{words}; default: the model's own, {default} for files")
    return option(default, within=within, help=words)
