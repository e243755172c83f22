"""PIE-Bench (PnP Inversion, ICLR 2024): 700 images with prompts, an instruction and the region of the edit.

As published: `mapping_file.json` {id: {image_path, original_prompt, editing_prompt,
editing_instruction, editing_type_id, blended_word, mask}} and `annotation_images/<image_path>`, 512 x 512. A
mask is a flat list of starts and lengths of runs, row by row, of the pixels to edit.

Prepared, it has MagicBrush's layout (see `dataset.testsets.magicbrush`), so that its sampler serves, and
`pie_items.json` beside that. There is no true result: the "output" of an item is its source.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dataset.records.images import load_image, load_magicbrush_mask, marked
from dataset.testsets.folders import image_names, name_differences, require_folder
from dataset.testsets.listed import ListedTurn, Session
from dataset.testsets.magicbrush import SESSIONS_FILE, input_name, output_name, single_turn_name
from dataset.testsets.pairs import ALL_TURN, GeneratedEdit, ScoredPair
from runtime.errors import UserError
from runtime.files import write_atomic
from runtime.logging import get_logger, progress
from runtime.texts import read_json

PIE_SIZE = 512
ITEMS_FILE = "pie_items.json"
EDIT_TYPES = {
    "0": "random",
    "1": "change object",
    "2": "add object",
    "3": "delete object",
    "4": "change content",
    "5": "change pose",
    "6": "change color",
    "7": "change material",
    "8": "change background",
    "9": "change style",
}
_SUFFIXES = (".png", ".jpg", ".jpeg")
_TEXTS = ("image_path", "original_prompt", "editing_prompt", "editing_instruction", "editing_type_id")
log = get_logger(__name__)


@dataclass(frozen=True)
class PieItem:
    """One item, as `mapping_file.json` has it; prompts without the brackets around what differs."""

    id: str
    image_path: str
    source_prompt: str
    target_prompt: str
    instruction: str
    edit_type: str
    runs: tuple[int, ...]


def read_mapping(path: str | Path) -> list[PieItem]:
    """Reads mapping_file.json, in its order.

    Raises:
      UserError: another kind of file; names the item.
    """
    content = read_json(Path(path), dict, "give PIE-Bench's mapping_file.json")
    items = []
    for identity, entry in content.items():
        where = f"{path}: item {identity!r}"
        values = {key: entry.get(key) if isinstance(entry, dict) else None for key in _TEXTS}
        for key, value in values.items():
            if not isinstance(value, str):
                raise UserError(f"{where}: needs a string under the key {key!r}, got {value!r}")
        runs = entry.get("mask")
        if not isinstance(runs, list) or len(runs) % 2 or not all(_is_count(run) for run in runs):
            raise UserError(f"{where}: mask must be a list of starts and lengths, got {str(runs)[:60]}")
        prompts = (values[key].replace("[", "").replace("]", "") for key in _TEXTS[1:3])
        items.append(
            PieItem(identity, values["image_path"], *prompts, *(values[k] for k in _TEXTS[3:]), tuple(runs))
        )
    if not items:
        raise UserError(f"{path}: holds no item")
    return items


def decode_runs(runs: Sequence[int], size: int = PIE_SIZE) -> np.ndarray:
    """(size, size) bool of a list of starts and lengths; what reaches beyond the picture is cut."""
    marks = np.zeros(size * size, bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        marks[start : start + length] = True
    return marks.reshape(size, size)


def with_border(region: np.ndarray) -> np.ndarray:
    """The region as it is scored: the outermost pixels count as edited, for annotations are wrong there."""
    scored = region.copy()
    scored[[0, -1], :] = True
    scored[:, [0, -1]] = True
    return scored


def prepare_pie_bench(source: Path, output: Path) -> None:
    """Writes the set in MagicBrush's layout; items that are there already are left alone.

    Args:
      source: holds mapping_file.json and annotation_images/.
      output: the folder to write.
    Raises:
      UserError: a file that is missing or not as described.
    """
    items = read_mapping(source / "mapping_file.json")
    root = (source / "annotation_images").resolve()
    sessions: dict[str, Any] = {}
    captions: dict[str, Any] = {}
    empty: set[str] = set()
    for item in progress(items, total=len(items), desc="PIE-Bench", unit="image"):
        path = (root / item.image_path).resolve()
        if not path.is_relative_to(root):
            raise UserError(f"item {item.id!r}: {item.image_path} leads out of {root}")
        names = (input_name(item.id), f"{item.id}-mask1.png", output_name(item.id, 1))
        if not decode_runs(item.runs).any():
            empty.add(item.id)
        _write_images(item, path, [output / "images" / item.id / name for name in names])
        sessions[item.id] = [dict(zip(("input", "mask", "output"), names, strict=True))
                             | {"instruction": item.instruction}]  # fmt: skip
        captions[item.id] = {names[0]: item.source_prompt, names[2]: item.target_prompt}
    if empty:
        log.warning(
            "%d masks mark nothing, such as that of %s: all may be edited; scored, as published, as if "
            "the border alone were", len(empty), min(empty)
        )  # fmt: skip
    listing = {
        item.id: {
            "image_path": item.image_path,
            "edit_type": item.edit_type,
            "marks_nothing": item.id in empty,
        }
        for item in items
    }
    files = {"global_descriptions.json": captions, "local_descriptions.json": captions}
    for name, content in (files | {ITEMS_FILE: listing, SESSIONS_FILE: sessions}).items():
        text = json.dumps(content, indent=1)
        write_atomic(output / name, lambda temporary, text=text: temporary.write_text(text))


def load_pie_items(root: str | Path) -> tuple[list[Session], dict[str, dict[str, Any]]]:
    """Reads a prepared set: its items as sessions of one turn, and what `pie_items.json` says of each.

    That is {id: {image_path, edit_type, marks_nothing}}, the last not in sets that older code has prepared.

    Raises:
      UserError: it is not there, or damaged.
    """
    root = Path(root)
    fix = "prepare the set with dataset/testsets/prepare_pie_bench.py"
    listing = read_json(root / ITEMS_FILE, dict, fix)
    turns, captions = (
        read_json(root / name, dict, fix) for name in (SESSIONS_FILE, "global_descriptions.json")
    )
    sessions = []
    try:
        for identity, item in listing.items():
            ((turn,), texts) = turns[identity], captions[identity]
            _ = item["image_path"], item["edit_type"]
            said = {"instruction": turn["instruction"], "mask": turn["mask"]}
            said |= {"caption": texts[turn["output"]], "input_caption": texts[turn["input"]]}
            sessions.append(Session(identity, (ListedTurn(1, turn["input"], turn["output"], **said),)))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{root / ITEMS_FILE}: not a prepared PIE-Bench ({error!r}); {fix}") from None
    return sessions, listing


def find_pie_pairs(
    sessions: Sequence[Session], listing: dict[str, dict[str, Any]], generated: str | Path, root: str | Path
) -> list[ScoredPair]:
    """Pairs generated images with their sources, in the order of the list.

    Args:
      generated: folder of results: `<id>/<id>_1.png`, as the sampler writes, or the published paths,
        `<edit type's folder>/<id>.jpg` or .png.
      root: of the prepared set.
    Raises:
      UserError: naming results that are missing, or that the list does not mention.
    """
    folder, images = require_folder(generated), Path(root) / "images"
    present = image_names(folder)
    found, missing = {}, set()
    for session in sessions:
        stem = Path(listing[session.id]["image_path"]).with_suffix("").as_posix()
        names = [f"{session.id}/{single_turn_name(session.id, 1)}", *(stem + suffix for suffix in _SUFFIXES)]
        there = [name for name in names if name in present]
        if len(there) > 1:
            raise UserError(f"{folder}: {' and '.join(there)} are both there; which one is the result?")
        found[session.id] = there[0] if there else None
        missing |= set() if there else {names[0]}
    extra = present - set(found.values())
    if missing or extra:
        message = f"{folder}: {len(sessions)} generated images expected, {len(present)} found."
        raise UserError(message + name_differences(missing, extra, "the set's list"))
    pairs = []
    for session in sessions:
        (turn,) = session.turns
        image, source = folder / found[session.id], images / session.id / turn.input
        edits = (GeneratedEdit(image, source),)
        ceiling = f"{session.id}/{turn.output}"
        pairs.append(ScoredPair(ALL_TURN, session.id, turn, image, source, source, edits, ceiling))
    return pairs


def load_scored_region(root: str | Path, session: Session, marks_nothing: bool = False) -> np.ndarray:
    """(512, 512) bool of an item, with the border that the published evaluator adds.

    Args:
      marks_nothing: its published mask does; the prepared one, which editors are given, marks everything.
    """
    if marks_nothing:
        return with_border(np.zeros((PIE_SIZE, PIE_SIZE), bool))
    path = Path(root) / "images" / session.id / session.turns[0].mask
    return with_border(marked(load_magicbrush_mask(str(path))).numpy().reshape(PIE_SIZE, PIE_SIZE))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _write_images(item: PieItem, source: Path, paths: Sequence[Path]) -> None:
    picture, mask, output = paths
    if output.exists():  # the last one written
        return
    image = load_image(str(source))
    if image.size != (PIE_SIZE, PIE_SIZE):
        raise UserError(
            f"{source}: {image.width}x{image.height}, but the masks are for {PIE_SIZE}x{PIE_SIZE}"
        )
    picture.parent.mkdir(parents=True, exist_ok=True)
    region = decode_runs(item.runs)
    if not region.any():
        region[:] = True
    alpha = Image.fromarray(np.where(region, 0, 255).astype(np.uint8))
    marks = Image.merge("RGBA", [Image.new("L", alpha.size)] * 3 + [alpha])  # transparent = edit
    write_atomic(picture, lambda temporary: image.save(temporary, "PNG"))
    write_atomic(mask, lambda temporary: marks.save(temporary, "PNG"))
    try:
        os.link(picture, output)  # the same 300 MB need not lie there twice
    except OSError:
        write_atomic(output, lambda temporary: shutil.copyfile(picture, temporary))
