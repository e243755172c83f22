"""Which generated image is compared with which source of the Emu Edit test set.

  <generated>/<idx>.png   or .jpg, the result for the item `idx` of the list
  <gt>/<idx>_gt.png       its *source*: the set has no reference results

An item of the list is a session of one turn, whose ground truth is its source.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from evaluations.pairs import (
    FINAL_TURN,
    Edit,
    Pair,
    Session,
    Turn,
    image_names,
    name_differences,
    require_folder,
)
from runtime.errors import UserError
from runtime.texts import read_text

# Sizes of the two lists in use, for the report.
SUBSETS = {
    3589: "the whole test split",
    2834: "the published list: items with captions that are present and differ",
}
_SUFFIXES = (".png", ".jpg", ".jpeg")
_TEXTS = ("input_caption", "output_caption", "edit_instruction")


def load_emu_list(path: str | Path) -> list[Session]:
    """Reads the list of {idx, input_caption, output_caption, edit_instruction}, in the order of the file.

    A caption that is null or blank leaves the numbers that need it undefined.

    Raises:
      UserError: if the file is missing, is not such a list, or holds an idx twice.
    """
    path = Path(path)
    text = read_text(path, "give emu_test_data.json")
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: expected a list of {{idx, {', '.join(_TEXTS)}}} with at least one item")
    sessions: dict[int, Session] = {}
    for number, entry in enumerate(entries, start=1):
        where = f"{path} item {number}"
        if not isinstance(entry, dict) or type(entry.get("idx")) is not int or entry["idx"] < 0:
            raise UserError(f"{where}: needs a whole number under the key 'idx'")
        if entry["idx"] in sessions:
            raise UserError(f"{where}: idx {entry['idx']} is there twice")
        sessions[entry["idx"]] = _parse_item(f"{where} (idx {entry['idx']})", entry)
    return list(sessions.values())


def find_emu_pairs(
    sessions: Sequence[Session], generated_path: str | Path, gt_path: str | Path
) -> list[Pair]:
    """Pairs generated images with their sources, in the order of the list.

    Raises:
      UserError: naming generated or source files that are missing, generated files that the list does not
        mention, and items with two generated files.
    """
    check_sources(sessions, gt_path)
    generated_path, gt_path = require_folder(generated_path), Path(gt_path)
    present = image_names(generated_path)
    files = {session.id: [s for s in _SUFFIXES if f"{session.id}{s}" in present] for session in sessions}
    missing = {f"{idx}.png" for idx, suffixes in files.items() if not suffixes}
    known = {f"{idx}{suffix}" for idx, suffixes in files.items() for suffix in suffixes}
    if missing or present - known:
        message = f"{generated_path}: {len(sessions)} generated images expected, {len(present)} found."
        message += name_differences(missing, present - known, "the list")
        if missing and (generated_path / "samples").is_dir():
            message += f" Did you mean {generated_path / 'samples'}?"
        raise UserError(message)
    for idx, suffixes in files.items():
        if len(suffixes) > 1:
            names = " and ".join(f"{idx}{suffix}" for suffix in suffixes)
            raise UserError(f"{generated_path}: {names} are both there; which one is the result?")
    pairs = []
    for session in sessions:
        (turn,) = session.turns
        image, source = generated_path / f"{session.id}{files[session.id][0]}", gt_path / turn.input
        edits = (Edit(image, source),)
        pairs.append(Pair(FINAL_TURN, session.id, turn, image, source, source, edits, f"{session.id}.png"))
    return pairs


def check_sources(sessions: Sequence[Session], gt_path: str | Path) -> None:
    """Checks that the folder of sources holds every item of the list; it may hold more.

    Raises:
      UserError: naming what is missing.
    """
    folder = require_folder(gt_path)
    required = {session.turns[0].input for session in sessions}
    missing = required - {file.name for file in folder.iterdir()}
    if missing:
        message = f"{folder}: {len(required)} sources expected, {len(required) - len(missing)} found."
        raise UserError(message + name_differences(missing, set(), "the list"))


def _parse_item(where: str, entry: dict) -> Session:
    texts = {key: entry.get(key) for key in _TEXTS}
    for key, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise UserError(f"{where}: {key} must be a string, got {text!r}")
    source = f"{entry['idx']}_gt.png"
    turn = Turn(
        number=1,
        input=source,
        output=source,
        caption=_or_none(texts["output_caption"]),
        instruction=texts["edit_instruction"],
        input_caption=_or_none(texts["input_caption"]),
    )
    return Session(str(entry["idx"]), (turn,))


def _or_none(text: str | None) -> str | None:
    return text if text and text.strip() else None
