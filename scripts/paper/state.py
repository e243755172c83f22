"""Whether a row can be measured with what the flags give."""

from __future__ import annotations

from scripts.paper.config import ReproducePaper
from scripts.paper.rows import EDITORS, Row


def why_not(config: ReproducePaper, row: Row) -> str | None:
    """What a row lacks; None where nothing but what can be downloaded or fetched by hand."""
    if row.weights not in EDITORS:
        return None
    editor = EDITORS[row.weights]
    if getattr(config, editor.field) is not None or config.ultraedit is not None:
        return None
    return (
        f"no such editor is published: give one with {editor.flag}, or train it with --ultraedit LIST "
        "(made by scripts/prepare_ultraedit.sh)"
    )
