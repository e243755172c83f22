"""The MagicBrush test set: sessions of edits, each turn starting from the result of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataset.records.jsonl import PathRules, require_files
from runtime.errors import UserError
from runtime.texts import read_json

SESSIONS_FILE = "edit_sessions.json"
SESSIONS_WITH_FEATURES_FILE = "edit_sessions_with_instruction_t5.json"


@dataclass(frozen=True)
class Turn:
    """One edit of a session.

    Attributes:
      session_id: the session, which is also its folder under `images`.
      number: 1 for the session's first edit.
      input_path: the image to edit, with every earlier turn of the session already done to it.
      mask_path: the region, see `dataset.records.images.load_magicbrush_mask`.
      output_path: the reference result.
      instruction: what to do; None when only its features are there.
      text_feature_path: .npy with the instruction's features, or None.
    """

    session_id: str
    number: int
    input_path: Path
    mask_path: Path
    output_path: Path
    instruction: str | None
    text_feature_path: Path | None

    def paths(self) -> list[Path]:
        """Every file of the turn."""
        features = [] if self.text_feature_path is None else [self.text_feature_path]
        return [self.input_path, self.mask_path, self.output_path, *features]


def read_sessions(
    root: str | Path,
    with_features: bool = False,
    allow_outside_root: bool = False,
    *,
    absolute_paths: bool = False,
    sessions_file: str | Path | None = None,
    images: str | Path | None = None,
) -> dict[str, list[Turn]]:
    """Reads every session of a MagicBrush test folder, in the order of its file.

    Args:
      root: holds `edit_sessions.json` and `images/<id>/`.
      with_features: read `edit_sessions_with_instruction_t5.json`, whose instructions are paths of .npy files
        (--with_t5_prompt). The words come from `edit_sessions.json` where that is there too.
      allow_outside_root, absolute_paths: see `PathRules`.
      sessions_file: another file of sessions.
      images: another folder of images.
    Returns:
      Session id -> its turns, first to last; any number of them.
    Raises:
      UserError: a file that is missing or not as described; names the file, the session and the turn.
    """
    root = Path(root)
    file = Path(sessions_file or root / (SESSIONS_WITH_FEATURES_FILE if with_features else SESSIONS_FILE))
    image_rules = PathRules(Path(images or root / "images"), allow_outside_root, absolute_paths)
    words = read_json(root / SESSIONS_FILE, dict) if with_features and (root / SESSIONS_FILE).exists() else {}
    rules = PathRules(file.parent, allow_outside_root, absolute_paths)
    sessions = {}
    for session_id, edits in read_json(file, dict).items():
        if session_id in ("", ".", "..") or set(session_id) & set("/\\\0"):
            raise UserError(f"{file}: session {session_id!r}: an id must be a plain folder name")
        if not isinstance(edits, list) or not edits:
            raise UserError(
                f"{file}: session {session_id!r} must be a non-empty list of edits, got {edits!r}"
            )
        sessions[session_id] = []
        for number, edit in enumerate(edits, start=1):
            turn = _parse_turn(edit, session_id, number, file, image_rules)
            if with_features:
                features = rules.resolve(turn.instruction, f"{file} session {session_id!r} turn {number}")
                instruction = _instruction(words, session_id, number)
                turn = replace(turn, instruction=instruction, text_feature_path=features)
            sessions[session_id].append(turn)
    turns = iterate_turns(sessions)
    require_files((path for turn in turns for path in turn.paths()), named_in=file)
    return sessions


def iterate_turns(sessions: dict[str, list[Turn]]) -> Iterator[Turn]:
    """Every turn of every session, in order."""
    return (turn for turns in sessions.values() for turn in turns)


def read_descriptions(root: str | Path, kind: str) -> dict[str, dict[str, str]]:
    """Reads `local_descriptions.json` or `global_descriptions.json`: {session id: {image file: text}}.

    Args:
      root: the MagicBrush test folder.
      kind: "local" (what the edit brought) or "global" (the whole image).
    """
    assert kind in ("local", "global")
    file = Path(root) / f"{kind}_descriptions.json"
    descriptions = read_json(file, dict)
    for session_id, texts in descriptions.items():
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise UserError(f"{file}: session {session_id!r} must map image files to texts, got {texts!r}")
    return descriptions


def _parse_turn(edit: Any, session_id: str, number: int, file: Path, rules: PathRules) -> Turn:
    origin = f"{file} session {session_id!r} turn {number}"
    values = {}
    for key in ("input", "mask", "output", "instruction"):
        values[key] = edit.get(key) if isinstance(edit, dict) else None
        if not isinstance(values[key], str) or not values[key]:
            raise UserError(f"{origin}: needs a string under the key {key!r}, got {values[key]!r}")
    images = [
        rules.resolve(str(Path(session_id, values[key])), origin) for key in ("input", "mask", "output")
    ]
    return Turn(session_id, number, *images, values["instruction"], None)


def _instruction(words: dict[str, Any], session_id: str, number: int) -> str | None:
    edits = words.get(session_id, [])
    return edits[number - 1]["instruction"] if number <= len(edits) else None
