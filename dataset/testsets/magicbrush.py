"""The MagicBrush test set: sessions of edits, each turn starting from the result of the one before.

Its lists, each with sessions by their id:
  edit_sessions.json                        the turns' files and instructions
  edit_sessions_with_instruction_t5.json    the same, with paths of features in place of instructions
  local_descriptions.json, global_descriptions.json    what images show, by the images' names

Its images, <id>/:
  <id>-input.png, <id>-maskK.png, <id>-outputK.png
Results of turn K, <id>/:
  <id>_1.png        turn 1
  <id>_inde_K.png   turn K >= 2, an edit of the true result of turn K - 1 (single-turn)
  <id>_iter_K.png   turn K >= 2, an edit of the generated result of turn K - 1 (multi-turn)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.records.jsonl import PathRules, require_files
from dataset.testsets.listed import ListedTurn, Session
from runtime.errors import UserError
from runtime.texts import read_json

SESSIONS_FILE = "edit_sessions.json"
SESSIONS_WITH_FEATURES_FILE = "edit_sessions_with_instruction_t5.json"
_TURN_KEYS = ("input", "mask", "output", "instruction")


@dataclass(frozen=True)
class Turn:
    """One edit of a session.

    Attributes:
      session_id: the session, which is also its folder under `images`.
      number: 1 for the session's first edit.
      input_path: the image to edit, with every earlier turn of the session already done to it.
      mask_path: the region, see `dataset.records.masks.load_magicbrush_mask`.
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
    feature_rules = PathRules(file.parent, allow_outside_root, absolute_paths) if with_features else None
    listed = _read_edits(file)
    words = _read_words(root) if with_features else {}
    sessions = {
        session.id: [
            _locate(session.id, turn, file, image_rules, feature_rules, words) for turn in session.turns
        ]
        for session in listed
    }
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
    sessions = _read_object(file)
    return {session_id: _parse_texts(file, session_id, texts) for session_id, texts in sessions.items()}


def read_listed_sessions(file: str | Path) -> list[Session]:
    """Reads sessions whose files are found by their names, of either kind of list.

    Args:
      file: edit_sessions.json, or local_descriptions.json, whose texts become the captions.
    Returns:
      The sessions in the order of the file, their turns in numeric order.
    Raises:
      UserError: the file is missing, is not JSON, or does not describe turns 1..n of every session by the
        names of the set.
    """
    file = Path(file)
    sessions = []
    for session_id, content in _read_object(file).items():
        if isinstance(content, dict):
            turns = _described_turns(file, session_id, _parse_texts(file, session_id, content))
        else:
            turns = _parse_edits(file, session_id, content, required=("input", "output"))
            for turn in turns:
                _require_names(file, session_id, turn)
        sessions.append(Session(session_id, turns))
    return sessions


def feature_name(turn: Turn) -> str:
    """`<id>_<k>`, which names the features of a turn's instruction."""
    return f"{turn.session_id}_{turn.number}"


def sessions_with_features(root: str | Path, turns: Iterable[Turn], folder: str) -> dict[str, Any]:
    """The content of `edit_sessions.json` with features in `folder` in place of the instructions.

    Args:
      root: the MagicBrush test folder.
      turns: all of its turns, as `read_sessions` gave them.
    """
    sessions = read_json(Path(root) / SESSIONS_FILE, dict)
    for turn in turns:
        features = f"{folder}/{feature_name(turn)}.npy"
        sessions[turn.session_id][turn.number - 1]["instruction"] = features
    return sessions


def input_name(session_id: str) -> str:
    return f"{session_id}-input.png"


def output_name(session_id: str, turn: int) -> str:
    return f"{session_id}-output{turn}.png"


def output_number(session_id: str, name: str) -> int | None:
    """The turn whose true result `name` is, or None."""
    match = re.fullmatch(re.escape(session_id) + r"-output([1-9][0-9]{0,8})\.png", name)
    return int(match.group(1)) if match else None


def single_turn_name(session_id: str, turn: int) -> str:
    """The generated result of a turn edited alone."""
    return f"{session_id}_1.png" if turn == 1 else f"{session_id}_inde_{turn}.png"


def multi_turn_name(session_id: str, turn: int) -> str:
    """The generated result of a turn edited after the ones before."""
    return f"{session_id}_1.png" if turn == 1 else f"{session_id}_iter_{turn}.png"


def _read_object(file: Path) -> dict[str, Any]:
    """The sessions of a list by their ids, which are checked; their contents are not."""
    sessions = read_json(file, dict, "give edit_sessions.json or local_descriptions.json")
    if not sessions:
        raise UserError(f"{file}: expected an object {{session id: turns}} with at least one session")
    for session_id in sessions:
        if not is_plain_name(session_id):
            raise UserError(f"{file}: session {session_id!r}: an id must be a plain folder name")
    return sessions


def _read_edits(file: Path) -> list[Session]:
    """Reads `edit_sessions.json`, or the one with features."""
    return [
        Session(session_id, _parse_edits(file, session_id, edits, required=_TURN_KEYS))
        for session_id, edits in _read_object(file).items()
    ]


def _read_words(root: Path) -> dict[tuple[str, int], str]:
    """The instructions, by session and turn; none without their file."""
    if not (root / SESSIONS_FILE).exists():
        return {}
    sessions = _read_edits(root / SESSIONS_FILE)
    return {(session.id, turn.number): turn.instruction for session in sessions for turn in session.turns}


def _parse_edits(file: Path, session_id: str, edits: Any, required: Sequence[str]) -> tuple[ListedTurn, ...]:
    """The turns of a session of `edit_sessions.json`; what is not `required` may be missing or null."""
    if not isinstance(edits, list) or not edits:
        raise UserError(f"{file}: session {session_id!r} must be a non-empty list of edits, got {edits!r}")
    turns = []
    for number, edit in enumerate(edits, start=1):
        values = {key: edit.get(key) if isinstance(edit, dict) else None for key in _TURN_KEYS}
        for key, value in values.items():
            is_text = isinstance(value, str)
            if not (is_text and value if key in required else is_text or value is None):
                origin = _origin(file, session_id, number)
                raise UserError(f"{origin}: needs a string under the key {key!r}, got {value!r}")
        turns.append(ListedTurn(number=number, **values))
    return tuple(turns)


def _parse_texts(file: Path, session_id: str, texts: Any) -> dict[str, str]:
    """The descriptions of a session's images; of its input there may be none (null)."""
    known = texts
    if isinstance(texts, dict) and texts.get(input_name(session_id)) is None:
        known = {name: text for name, text in texts.items() if name != input_name(session_id)}
    if not isinstance(known, dict) or not all(isinstance(text, str) for text in known.values()):
        raise UserError(f"{file}: session {session_id!r} must map image files to texts, got {texts!r}")
    return known


def _described_turns(file: Path, session_id: str, texts: dict[str, str]) -> tuple[ListedTurn, ...]:
    """The turns whose results are described; each starts from the result before."""
    where = f"{file}: session {session_id!r}"
    numbered = {}
    for name, text in texts.items():
        if name == input_name(session_id):
            continue
        number = output_number(session_id, name)
        if number is None:
            raise UserError(f"{where}: {name!r} is not '{session_id}-output<turn>.png'")
        numbered[number] = text
    if sorted(numbered) != list(range(1, len(numbered) + 1)) or not numbered:
        raise UserError(f"{where}: turns must be 1..n without a gap, got {sorted(numbered)}")
    return tuple(
        ListedTurn(
            number,
            output_name(session_id, number - 1) if number > 1 else input_name(session_id),
            output_name(session_id, number),
            caption=numbered[number],
        )
        for number in sorted(numbered)
    )


def _require_names(file: Path, session_id: str, turn: ListedTurn) -> None:
    origin = _origin(file, session_id, turn.number)
    for key, name in (("input", turn.input), ("output", turn.output)):
        if not is_plain_name(name):
            raise UserError(f"{origin}: {key} must be a plain file name, got {name!r}")
    expected = output_name(session_id, turn.number)
    if turn.output != expected:
        raise UserError(f"{origin}: output is {turn.output!r}, expected {expected!r}")


def _locate(
    session_id: str,
    turn: ListedTurn,
    file: Path,
    images: PathRules,
    features: PathRules | None,
    words: dict[tuple[str, int], str],
) -> Turn:
    """The files of a turn; with rules for `features` its instruction is the path of them."""
    origin = _origin(file, session_id, turn.number)
    names = (turn.input, turn.mask, turn.output)
    paths = [images.resolve(str(Path(session_id, name)), origin) for name in names]
    if features is None:
        return Turn(session_id, turn.number, *paths, turn.instruction, None)
    feature_path = features.resolve(turn.instruction, origin)
    return Turn(session_id, turn.number, *paths, words.get((session_id, turn.number)), feature_path)


def _origin(file: Path, session_id: str, number: int) -> str:
    return f"{file} session {session_id!r} turn {number}"


def is_plain_name(name: str) -> bool:
    """Whether a name of a list leads nowhere but into its own folder."""
    return name not in ("", ".", "..") and not re.search(r"[/\\\0]", name)
