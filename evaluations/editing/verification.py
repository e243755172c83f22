"""Rates of the verifiers of drawn sets: was the edit done, and did anything else move?"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dataset.shapes.edits import EditExample
from dataset.shapes.verifier import verify_edit
from dataset.testsets.listed import Session
from dataset.testsets.pairs import ScoredPair
from runtime.errors import UserError
from runtime.texts import read_json

Example = TypeVar("Example")
Verify = Callable[[np.ndarray, ScoredPair], dict[str, Any]]
"""The verdict on (H, W, 3) uint8 pixels as the outcome of a pair's last edit: its kind and fields."""

# Column of the table -> field of the verdict; a field is None where the edit makes no such demand, and
# missing where the set's verifier never asks.
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
    "sprite": "sprite",
    "look_alike": "look_alike",
}
HEADLINE = "passed_and_unchanged"
"""An edit counts as done only if the edited object is right and everything else is unchanged."""
TITLES = {column: column.replace("_", " ").replace("color", "colour") for column in COLUMNS} | {
    "others_unchanged": "all else unchanged",
    "cells_fit": "each cell fits",
    "one_offset": "one offset fits all",
    "sprite": "right emoji",
    "look_alike": "right or one change away",
}
"""Of the columns, for readers. An object's offset in its place is named by no caption."""


def load_examples(path: str | Path, sessions: Sequence[Session]) -> dict[str, list[EditExample]]:
    """Reads shapes.json ({id: [{before, after, edit} per turn]}) for the given sessions.

    Raises:
      UserError: if the file cannot be read, or lacks a session or a turn.
    """
    return read_examples(path, sessions, EditExample.from_dict)


def load_emoji_verifier(path: str | Path, sessions: Sequence[Session]) -> Verify:
    """What judges results of the emoji set.

    Args:
      path: emoji.json of a test set; the set's sprites.npz is beside it or one folder up.
      sessions: that are judged.
    Raises:
      UserError: if a file cannot be read, or lacks a session, a turn or a sprite.
    """
    from dataset.emoji.edits import EmojiExample  # other data must not need the sprites
    from dataset.emoji.verifier import EmojiVerifier, find_catalogue

    examples = read_examples(path, sessions, EmojiExample.from_dict)
    verifier = EmojiVerifier(find_catalogue(path))
    verifier.require([example for turns in examples.values() for example in turns], path)

    def verify(image: np.ndarray, pair: ScoredPair) -> dict[str, Any]:
        example = examples[pair.session][pair.turn.number - 1]
        verdict = verifier.verify_edit(image, example)
        fields = dataclasses.asdict(verdict)
        return {"kind": example.edit.kind, HEADLINE: verdict.passed_and_unchanged} | fields

    return verify


def read_examples(
    path: str | Path, sessions: Sequence[Session], from_dict: Callable[[dict[str, Any]], Example]
) -> dict[str, list[Example]]:
    """Reads {id: [one object per turn]} for the given sessions.

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
            examples[session.id] = [from_dict(turn) for turn in turns]
        except (KeyError, TypeError, AttributeError) as error:
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
      "counts": {"passed": n, ...}, "by_kind": {kind: the same}}; a rate without a case is None. Of emoji also
      "confusion": how often what was found stands in which relation to what was wanted.
    """
    kinds = sorted({verdict["kind"] for verdict in verdicts})
    by_kind = {kind: _rates([verdict for verdict in verdicts if verdict["kind"] == kind]) for kind in kinds}
    return _rates(verdicts) | {"by_kind": by_kind}


def _rates(verdicts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rates, counts = {}, {}
    for column, field in COLUMNS.items():
        if not any(field in verdict for verdict in verdicts):
            continue
        cases = [bool(verdict[field]) for verdict in verdicts if verdict[field] is not None]
        rates[column] = sum(cases) / len(cases) if cases else None
        counts[column] = len(cases)
    relations = Counter(verdict["relation"] for verdict in verdicts if verdict.get("relation"))
    return rates | {"counts": counts} | ({"confusion": dict(relations.most_common())} if relations else {})
