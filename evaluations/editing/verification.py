"""Rates of the shapes verifier: was the edit done, and did anything else move?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset.shapes.edits import EditExample
from dataset.shapes.verifier import verify_edit
from dataset.testsets.listed import Session
from dataset.testsets.pairs import ScoredPair
from runtime.errors import UserError
from runtime.texts import read_json

# Column of the table -> field of the verdict; a field is None where the edit makes no such demand.
COLUMNS = {
    "passed_and_unchanged": "passed_and_unchanged",
    "passed": "passed",
    "others_unchanged": "others_unchanged",
    "color": "color",
    "shape": "shape",
    "size": "size",
    "remove": "removed",
    "cells_fit": "cells_fit",
    "one_offset": "one_offset",
}
HEADLINE = "passed_and_unchanged"
"""An edit counts as done only if the edited object is right and everything else is unchanged."""
TITLES = {column: column.replace("_", " ").replace("color", "colour") for column in COLUMNS} | {
    "others_unchanged": "all else unchanged",
    "cells_fit": "each cell fits",
    "one_offset": "one offset fits all",
}
"""Of the columns, for readers. An object's offset in its place is named by no caption."""


def load_examples(path: str | Path, sessions: Sequence[Session]) -> dict[str, list[EditExample]]:
    """Reads shapes.json ({id: [{before, after, edit} per turn]}) for the given sessions.

    Raises:
      UserError: if the file cannot be read, or lacks a session or a turn.
    """
    path = Path(path)
    content = read_json(path, dict)
    examples = {}
    for session in sessions:
        turns = content.get(session.id)
        if not isinstance(turns, list) or len(turns) != len(session.turns):
            found = len(turns) if isinstance(turns, list) else "none"
            raise UserError(f"{path}: session {session.id!r} has {len(session.turns)} turns, here {found}")
        try:
            examples[session.id] = [EditExample.from_dict(turn) for turn in turns]
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{path}: session {session.id!r} is not {{before, after, edit}} ({error!r})"
            ) from error
    return examples


def verify_pair(
    image: np.ndarray, pair: ScoredPair, examples: dict[str, list[EditExample]]
) -> dict[str, Any]:
    """The verdict on (H, W, 3) uint8 `image` as the outcome of the pair's last edit, with the edit's kind.

    In the multi-turn protocol too the last edit is judged: earlier ones are part of its `before` scene, so
    damage that they left shows in `others_unchanged`.
    """
    return verify_example(image, examples[pair.session][pair.turn.number - 1])


def verify_example(image: np.ndarray, example: EditExample) -> dict[str, Any]:
    """The verdict on (H, W, 3) uint8 `image` as the outcome of an edit, with the edit's kind."""
    verdict = verify_edit(image, example.before, example.after, example.edit)
    fields = dataclasses.asdict(verdict).items()
    return {"kind": example.edit.kind, HEADLINE: bool(verdict.passed_and_unchanged)} | {
        key: None if value is None else bool(value) for key, value in fields
    }


def verifier_table(verdicts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rates over verdicts, of all and by kind of edit.

    Returns:
      {"passed_and_unchanged": share, its parts "passed" and "others_unchanged", "color": ..., ...,
      "counts": {"passed": n, ...}, "by_kind": {kind: the same}}; a rate without a case is None.
    """
    kinds = sorted({verdict["kind"] for verdict in verdicts})
    by_kind = {kind: _rates([verdict for verdict in verdicts if verdict["kind"] == kind]) for kind in kinds}
    return _rates(verdicts) | {"by_kind": by_kind}


def _rates(verdicts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rates, counts = {}, {}
    for column, field in COLUMNS.items():
        cases = [bool(verdict[field]) for verdict in verdicts if verdict[field] is not None]
        rates[column] = sum(cases) / len(cases) if cases else None
        counts[column] = len(cases)
    return rates | {"counts": counts}
