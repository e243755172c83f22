"""Which generated image is compared with which source of the Emu Edit test set.

  <generated>/<idx>.png   or .jpg, the result for the item `idx` of the list
  <gt>/<idx>_gt.png       its *source*: the set has no reference results

An item of the list is a session of one turn, whose ground truth is its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset.testsets.emu_edit import read_valid_list, source_name
from dataset.testsets.folders import image_names, name_differences, require_folder
from dataset.testsets.listed import ListedTurn, Session
from dataset.testsets.pairs import FINAL_TURN, GeneratedEdit, ScoredPair
from runtime.errors import UserError

# Sizes of the two lists in use, for the report.
SUBSETS = {
    3589: "the whole test split",
    2834: "the published list: items with captions that are present and differ",
}
_SUFFIXES = (".png", ".jpg", ".jpeg")


def load_emu_list(path: str | Path) -> list[Session]:
    """Reads the list of {idx, input_caption, output_caption, edit_instruction}, in the order of the file.

    A caption that is null or blank leaves the numbers that need it undefined.

    Raises:
      UserError: if the file is missing, is not such a list, or holds an idx twice.
    """
    return [_session(entry) for entry in read_valid_list(path, instructions=False)]


def find_emu_pairs(
    sessions: Sequence[Session], generated_path: str | Path, gt_path: str | Path
) -> list[ScoredPair]:
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
        edits = (GeneratedEdit(image, source),)
        pairs.append(
            ScoredPair(FINAL_TURN, session.id, turn, image, source, source, edits, f"{session.id}.png")
        )
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


def _session(entry: dict[str, Any]) -> Session:
    source = source_name(entry["idx"])
    turn = ListedTurn(
        number=1,
        input=source,
        output=source,
        caption=_or_none(entry["output_caption"]),
        instruction=entry["edit_instruction"],
        input_caption=_or_none(entry["input_caption"]),
    )
    return Session(str(entry["idx"]), (turn,))


def _or_none(text: str | None) -> str | None:
    return text if text and text.strip() else None
