"""The held-out edits of a shapes test set."""

from __future__ import annotations

from pathlib import Path

from dataset.shapes.edits import EditExample
from dataset.testsets.magicbrush import (
    SESSIONS_FILE,
    Turn,
    iterate_turns,
    read_listed_sessions,
    read_sessions,
)
from evaluations.editing.verification import load_examples


def read_held_out(root: Path) -> list[tuple[Turn, EditExample]]:
    """Every turn of the set, with its true scenes.

    Args:
      root: the test folder that prepare_shapes.py writes.
    Raises:
      UserError: a file that is missing or not as written.
    """
    examples = load_examples(root / "shapes.json", read_listed_sessions(root / SESSIONS_FILE))
    return [(turn, examples[turn.session_id][turn.number - 1]) for turn in iterate_turns(read_sessions(root))]
