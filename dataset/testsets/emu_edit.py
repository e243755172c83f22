"""The Emu Edit test set: free-form instructions without masks or reference results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataset.records.images import ImageSource
from dataset.records.jsonl import require_files
from dataset.records.parquet import ParquetImage, read_text_columns, require_columns
from runtime.errors import UserError
from runtime.files import without_mac_metadata
from runtime.texts import read_json

_COLUMNS = ("instruction", "task", "split", "idx", "hash", "input_caption", "output_caption")


@dataclass(frozen=True)
class EmuItem:
    """One edit to make.

    Attributes:
      idx: the item's number, which names its files.
      source_path: the image to edit; a path or a parquet cell.
      instruction: what to do.
      input_caption: describes the source.
      output_caption: describes the wanted result.
      task: kind of edit, where known.
      split: "test" or "validation", where known.
      hash: the source image's hash, where known.
    """

    idx: int
    source_path: ImageSource
    instruction: str
    input_caption: str | None
    output_caption: str | None
    task: str | None = None
    split: str | None = None
    hash: str | None = None


def read_emu(root: str | Path, valid_list: str | Path | None = None, split: str = "test") -> list[EmuItem]:
    """Reads the set from whichever form `root` holds: the hub's parquet files, or the prepared images.

    Args:
      root: the folder of `<split>-*.parquet` (or the one above its `data/`), or one for `read_emu_prepared`.
      valid_list: which items, see the two readers; the prepared form needs it.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one that holds Emu Edit's {split}-*.parquet")
    for folder in (root, root / "data"):
        if files := without_mac_metadata(folder.glob(f"{split}*.parquet")):
            return read_emu_parquet(files, valid_list)
    if valid_list is None or not ((root / "images").is_dir() or (root / "images_valid").is_dir()):
        raise UserError(
            f"{root}: holds neither {split}*.parquet nor, with a valid list, images/ or images_valid/"
        )
    return read_emu_prepared(root, valid_list)


def read_emu_prepared(root: str | Path, valid_list: str | Path) -> list[EmuItem]:
    """Reads the prepared layout: the items of `valid_list`, their sources under `images/` or `images_valid/`.

    Args:
      root: holds `images/<idx>.png`, or `images_valid/<idx>_gt.png` (the same source image).
      valid_list: JSON list of {idx, input_caption, output_caption, edit_instruction}.
    Raises:
      UserError: a bad list, or sources that are missing, by name.
    """
    items = []
    for entry in read_valid_list(valid_list):
        source = Path(root) / "images" / f"{entry['idx']}.png"
        if not source.exists():
            copy = Path(root) / "images_valid" / f"{entry['idx']}_gt.png"
            source = copy if copy.exists() else source
        captions = entry["input_caption"], entry["output_caption"]
        items.append(EmuItem(entry["idx"], source, entry["edit_instruction"], *captions))
    require_files((item.source_path for item in items), named_in=valid_list)
    return items


def read_emu_parquet(files: Sequence[str | Path], valid_list: str | Path | None = None) -> list[EmuItem]:
    """Reads the hub's parquet files, images left inside.

    Args:
      files: of one split; `idx` counts within a split.
      valid_list: keep only its items, in its order, with its captions and instructions; None = keep all.
    Raises:
      UserError: a bad file or list, or items of the list that the files do not hold.
    """
    items: dict[int, EmuItem] = {}
    for file in map(Path, files):
        require_columns(file, ("image",))
        for row, values in enumerate(read_text_columns(file, _COLUMNS).to_pylist()):
            idx = values.pop("idx")
            if not isinstance(idx, int) or idx in items:
                raise UserError(f"{file} row {row}: idx must be a number of its own, got {idx!r}")
            items[idx] = EmuItem(idx, ParquetImage(file, row, "image"), **values)
    if valid_list is None:
        return list(items.values())
    entries = read_valid_list(valid_list)
    absent = [entry["idx"] for entry in entries if entry["idx"] not in items]
    if absent:
        raise UserError(
            f"{valid_list}: {len(absent)} of its items are not in the parquet files: idx {absent[:10]}"
        )
    return [_with_entry(items[entry["idx"]], entry) for entry in entries]


def read_valid_list(file: str | Path) -> list[dict[str, Any]]:
    """Reads and checks a list of {idx, input_caption, output_caption, edit_instruction}."""
    entries = read_json(file, list)
    seen = set()
    for number, entry in enumerate(entries, start=1):
        origin = f"{file} item {number}"
        if not isinstance(entry, dict) or type(entry.get("idx")) is not int:
            raise UserError(f"{origin}: needs a whole number under the key 'idx'")
        for key in ("input_caption", "output_caption", "edit_instruction"):
            if not isinstance(entry.get(key), str):
                raise UserError(f"{origin} (idx {entry['idx']}): needs a string under the key {key!r}")
        if entry["idx"] in seen:
            raise UserError(f"{origin}: idx {entry['idx']} is there twice")
        seen.add(entry["idx"])
    return entries


def _with_entry(item: EmuItem, entry: dict[str, Any]) -> EmuItem:
    return replace(
        item,
        instruction=entry["edit_instruction"],
        input_caption=entry["input_caption"],
        output_caption=entry["output_caption"],
    )
