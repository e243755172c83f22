"""The Emu Edit test set: free-form instructions without masks or reference results.

Its list, emu_test_data.json, holds {idx, input_caption, output_caption, edit_instruction} of every item.
Its images, once prepared, are those to edit:
  images/<idx>.png             of every item
  images_valid/<idx>_gt.png    of the items of the list
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataset.records.images import ImageSource
from dataset.records.jsonl import require_files
from dataset.records.parquet import ParquetImage, read_text_rows, require_columns, require_text
from runtime.errors import UserError
from runtime.files import without_mac_metadata
from runtime.texts import read_json

CAPTIONS = ("input_caption", "output_caption")
_TEXTS = (*CAPTIONS, "edit_instruction")
_COLUMNS = ("instruction", "task", "split", "idx", "hash", *CAPTIONS)


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
        source = prepared_image(root, entry["idx"])
        if not source.exists():
            copy = prepared_source(root, entry["idx"])
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
        for row, values in enumerate(read_text_rows(file, _COLUMNS)):
            idx = values.pop("idx")
            if type(idx) is not int or idx < 0 or idx in items:
                raise UserError(f"{file} row {row}: idx must be a whole number of its own, got {idx!r}")
            if valid_list is None:  # else the list says what to do
                origin = f"{file} row {row} (idx {idx})"
                require_text(values["instruction"], "instruction", origin)
                for key in CAPTIONS:
                    if not isinstance(values[key], str | None):
                        raise UserError(f"{origin}: {key} must be a text, got {values[key]!r}")
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


def read_valid_list(file: str | Path, *, instructions: bool = True) -> list[dict[str, Any]]:
    """Reads and checks a list of {idx, input_caption, output_caption, edit_instruction}.

    Args:
      instructions: whether every item must say what to do.
    Returns:
      The items in the order of the file; a text that is missing or null is None.
    Raises:
      UserError: the file is missing, is not such a list, or holds an idx twice.
    """
    wanted = f"expected a list of {{idx, {', '.join(_TEXTS)}}} with at least one item"
    try:
        entries = read_json(file, list, "give emu_test_data.json")
    except UserError as error:
        raise UserError(f"{error}; {wanted}") from None
    if not entries:
        raise UserError(f"{file}: must be a list; {wanted}")
    items: dict[int, dict[str, Any]] = {}
    for number, entry in enumerate(entries, start=1):
        item = _parse_entry(f"{file} item {number}", entry, instructions)
        if item["idx"] in items:
            raise UserError(f"{file} item {number}: idx {item['idx']} is there twice")
        items[item["idx"]] = item
    return list(items.values())


def prepared_image(root: str | Path, idx: int) -> Path:
    """The prepared image of an item."""
    return Path(root, "images", f"{idx}.png")


def prepared_source(root: str | Path, idx: int) -> Path:
    """The same image under the name by which evaluators find it."""
    return Path(root, "images_valid", source_name(idx))


def source_name(idx: int) -> str:
    return f"{idx}_gt.png"


def _parse_entry(origin: str, entry: Any, instructions: bool) -> dict[str, Any]:
    if not isinstance(entry, dict) or type(entry.get("idx")) is not int or entry["idx"] < 0:
        raise UserError(f"{origin}: needs a whole number under the key 'idx'")
    origin = f"{origin} (idx {entry['idx']})"
    texts = {key: entry.get(key) for key in _TEXTS}
    for key, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise UserError(f"{origin}: {key} must be a string, got {text!r}")
    if instructions and not (texts["edit_instruction"] or "").strip():
        raise UserError(f"{origin}: needs a string under the key 'edit_instruction' that says what to do")
    return entry | texts


def _with_entry(item: EmuItem, entry: dict[str, Any]) -> EmuItem:
    return replace(
        item,
        instruction=entry["edit_instruction"],
        input_caption=entry["input_caption"],
        output_caption=entry["output_caption"],
    )
