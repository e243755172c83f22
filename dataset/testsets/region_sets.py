"""Test sets that fix the region of each edit and have no true results: PIE-Bench, BrushBench, EditBench.

A reader of its own turns each set's files into `RegionItem`s. Prepared, all have MagicBrush's layout (see
`dataset.testsets.magicbrush`), so that its sampler serves, and beside it a list of what else is known of the
items, from whose name one sees which set it is. The "output" of an item is its source.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dataset.records.images import load_image
from dataset.records.masks import load_magicbrush_mask, marked
from dataset.testsets.folders import image_names, name_differences, require_folder
from dataset.testsets.listed import ListedTurn, Session
from dataset.testsets.magicbrush import (
    SESSIONS_FILE,
    input_name,
    is_plain_name,
    output_name,
    single_turn_name,
)
from dataset.testsets.pairs import ALL_TURN, GeneratedEdit, ScoredPair
from runtime.errors import UserError
from runtime.files import write_atomic
from runtime.logging import get_logger, progress
from runtime.texts import read_json, write_json

SIDE = 512
"""Of every picture and mask, in pixels."""
_SUFFIXES = (".png", ".jpg", ".jpeg")
log = get_logger(__name__)

Listing = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class RegionSet:
    """What tells one set from another.

    Attributes:
      title: what messages call it.
      published: (number of items, name) of each set that is published in this form.
      items_file: beside the prepared set.
      program: that prepares it.
      border: the outermost pixels are scored as edited, for annotations are wrong there.
    """

    title: str
    published: tuple[tuple[int, str], ...]
    items_file: str
    program: str
    border: bool = False

    def describe(self, count: int) -> str:
        """Name and size of a prepared set, and whether it is whole."""
        whole = dict(self.published)
        if count in whole:
            return f"{whole[count]}, {count} items (the whole set)"
        return f"{self.title}, {count} items (of {' or '.join(map(str, whole))})"


PIE_BENCH = RegionSet(
    "PIE-Bench", ((700, "PIE-Bench"),), "pie_items.json", "dataset/testsets/prepare_pie_bench.py", border=True
)
BRUSH_BENCH = RegionSet(
    "a set in BrushBench's layout",
    ((600, "BrushBench"), (240, "EditBench")),
    "brush_items.json",
    "dataset/testsets/prepare_brush_bench.py",
)
REGION_SETS = (PIE_BENCH, BRUSH_BENCH)


@dataclass(frozen=True)
class RegionItem:
    """One picture and what to do in it.

    Attributes:
      image_path: below the folder of pictures; results may have the same path.
      instruction: what the editor is told, unless it is told `target_prompt`.
      source_prompt: describes the picture, where that is known.
      target_prompt: describes the result.
      runs: starts, from 0, and lengths of the runs of pixels to edit, row by row.
      notes: what else the list of items says of it.
    """

    id: str
    image_path: str
    instruction: str
    source_prompt: str | None
    target_prompt: str
    runs: tuple[int, ...]
    notes: dict[str, str] = field(default_factory=dict)


def decode_runs(runs: Sequence[int], size: int = SIDE) -> np.ndarray:
    """(size, size) bool of a list of starts and lengths; what reaches beyond the picture is cut."""
    marks = np.zeros(size * size, bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        marks[start : start + length] = True
    return marks.reshape(size, size)


def with_border(region: np.ndarray) -> np.ndarray:
    """The region with the outermost pixels added."""
    scored = region.copy()
    scored[[0, -1], :] = True
    scored[:, [0, -1]] = True
    return scored


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def require_within(starts: Sequence[int], first: int, key: str, where: str) -> None:
    """Raises `UserError` for a run that starts behind the last pixel: the mask of a larger picture.

    Args:
      first: how the set counts the first pixel.
      key: of the mask, in the set's list.
    """
    if late := next((start for start in starts if start - first >= SIDE * SIDE), None):
        raise UserError(
            f"{where}: a run of {key} starts at {late}, but a picture of {SIDE}x{SIDE} has "
            f"{SIDE * SIDE} pixels; give the mask of the picture in the set"
        )


def prepare_region_set(kind: RegionSet, items: Sequence[RegionItem], pictures: Path, output: Path) -> None:
    """Writes a set in MagicBrush's layout; items that are there already are left alone.

    Args:
      pictures: the folder that `image_path` counts from.
      output: the folder to write.
    Raises:
      UserError: an item without a usable id or picture, two with the same, or a folder of other masks.
    """
    root = pictures.resolve()
    sessions: dict[str, Any] = {}
    captions: dict[str, Any] = {}
    empty: set[str] = set()
    owners: dict[str, RegionItem] = {}
    for item in progress(items, total=len(items), desc=kind.title, unit="image"):
        if not is_plain_name(item.id):
            raise UserError(f"item {item.id!r}: an id names a folder here; it must be a plain folder name")
        path = (root / item.image_path).resolve()
        if not path.is_relative_to(root):
            raise UserError(f"item {item.id!r}: {item.image_path} leads out of {root}")
        stem = os.path.splitext(os.path.normpath(item.image_path))[0]  # a result may have another suffix
        if (owner := owners.setdefault(stem, item)) is not item:
            raise UserError(
                f"item {item.id!r}: {item.image_path} is the picture of item {owner.id!r} too, or would "
                f"share its result, whose suffix does not count ({owner.image_path}); give each its own name"
            )
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
            "%s were", len(empty), min(empty), "the border alone" if kind.border else "nothing"
        )  # fmt: skip
    listing = {
        item.id: {"image_path": item.image_path, **item.notes, "marks_nothing": item.id in empty}
        for item in items
    }
    files = {"global_descriptions.json": captions, "local_descriptions.json": captions}
    for name, content in (files | {kind.items_file: listing, SESSIONS_FILE: sessions}).items():
        write_json(output / name, content)


def load_region_set(root: str | Path) -> tuple[RegionSet, list[Session], Listing]:
    """Reads a prepared set: which it is, its items as sessions of one turn, and what its list says of each.

    That is {id: {image_path, marks_nothing, ...}}; older code has prepared sets without "marks_nothing".

    Raises:
      UserError: there is none, or it is damaged.
    """
    root = Path(root)
    there = [kind for kind in REGION_SETS if (root / kind.items_file).exists()]
    if len(there) != 1:
        found = " and ".join(kind.items_file for kind in there) or "none"
        programs = ", ".join(f"{kind.items_file} by {kind.program}" for kind in REGION_SETS)
        raise UserError(f"{root}: must hold the list of one prepared set ({programs}), found {found}")
    (kind,) = there
    fix = f"prepare the set with {kind.program}"
    listing = read_json(root / kind.items_file, dict, fix)
    turns, captions = (
        read_json(root / name, dict, fix) for name in (SESSIONS_FILE, "global_descriptions.json")
    )
    sessions = []
    try:
        for identity, item in listing.items():
            ((turn,), texts) = turns[identity], captions[identity]
            _ = item["image_path"]
            said = {"instruction": turn["instruction"], "mask": turn["mask"]}
            said |= {"caption": texts[turn["output"]], "input_caption": texts[turn["input"]]}
            sessions.append(Session(identity, (ListedTurn(1, turn["input"], turn["output"], **said),)))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{root / kind.items_file}: not as prepared ({error!r}); {fix}") from None
    return kind, sessions, listing


def find_region_pairs(
    sessions: Sequence[Session], listing: Listing, generated: str | Path, root: str | Path
) -> list[ScoredPair]:
    """Pairs generated images with their sources, in the order of the list.

    Args:
      generated: folder of results: `<id>/<id>_1.png`, as the sampler writes, or the sources' published paths
        (.jpg or .png). BrushNet's code writes `..._masked.jpg` beside them, which are no results.
      root: of the prepared set.
    Raises:
      UserError: naming results that are missing, or that the list does not mention.
    """
    folder, images = require_folder(generated), Path(root) / "images"
    present = image_names(folder)
    found, missing, beside = {}, set(), set()
    for session in sessions:
        stem = Path(listing[session.id]["image_path"]).with_suffix("").as_posix()
        names = [f"{session.id}/{single_turn_name(session.id, 1)}", *(stem + suffix for suffix in _SUFFIXES)]
        there = [name for name in names if name in present]
        if len(there) > 1:
            raise UserError(f"{folder}: {' and '.join(there)} are both there; which one is the result?")
        found[session.id] = there[0] if there else None
        missing |= set() if there else {names[0]}
        beside |= {f"{stem}_masked{suffix}" for suffix in _SUFFIXES}
    extra = present - set(found.values()) - beside
    if missing or extra:
        message = f"{folder}: {len(sessions)} generated images expected, {len(present - beside)} found."
        raise UserError(message + name_differences(missing, extra, "the set's list"))
    pairs = []
    for session in sessions:
        (turn,) = session.turns
        image, source = folder / found[session.id], images / session.id / turn.input
        edits = (GeneratedEdit(image, source),)
        ceiling = f"{session.id}/{turn.output}"
        pairs.append(ScoredPair(ALL_TURN, session.id, turn, image, source, source, edits, ceiling))
    return pairs


def load_scored_region(
    kind: RegionSet, root: str | Path, session: Session, marks_nothing: bool = False
) -> np.ndarray:
    """(SIDE, SIDE) bool of an item, as the published evaluator takes it.

    Args:
      marks_nothing: its published mask does; the prepared one, which editors are given, marks everything.
    Raises:
      UserError: the mask is missing, no mask, or of another size.
    """
    region = np.zeros((SIDE, SIDE), bool)
    if not marks_nothing:
        region = _read_mask(Path(root) / "images" / session.id / session.turns[0].mask)
    return with_border(region) if kind.border else region


def _read_mask(path: Path) -> np.ndarray:
    region = marked(load_magicbrush_mask(str(path))).numpy()
    if region.shape != (SIDE, SIDE):
        raise UserError(
            f"{path}: {region.shape[1]}x{region.shape[0]}, but the set's masks are {SIDE}x{SIDE}; prepare "
            "the set anew"
        )
    return region


def _write_images(item: RegionItem, source: Path, paths: Sequence[Path]) -> None:
    picture, mask, output = paths
    region = decode_runs(item.runs)
    if not region.any():
        region[:] = True
    if output.exists():  # the last one written
        if not np.array_equal(_read_mask(mask), region):
            raise UserError(
                f"{mask}: marks another region than item {item.id!r} is to have; choose another --output-dir"
            )
        return
    image = load_image(str(source))
    if image.size != (SIDE, SIDE):
        raise UserError(f"{source}: {image.width}x{image.height}, but the masks are for {SIDE}x{SIDE}")
    picture.parent.mkdir(parents=True, exist_ok=True)
    alpha = Image.fromarray(np.where(region, 0, 255).astype(np.uint8))
    marks = Image.merge("RGBA", [Image.new("L", alpha.size)] * 3 + [alpha])  # transparent = edit
    write_atomic(picture, lambda temporary: image.save(temporary, "PNG"))
    write_atomic(mask, lambda temporary: marks.save(temporary, "PNG"))
    try:
        os.link(picture, output)  # the same 300 MB need not lie there twice
    except OSError:
        write_atomic(output, lambda temporary: shutil.copyfile(picture, temporary))
