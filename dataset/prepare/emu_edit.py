"""The work of prepare_emu_edit.py, whose head explains it."""

from __future__ import annotations

import filecmp
import json
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from dataset.prepare.flags import PrepareEmuEditConfig
from dataset.prepare.output import claimed, log, write_lines
from dataset.prepare.pictures import check_image, image_cell, write_bytes
from dataset.prepare.tables import Row, export_rows, find_parquet
from dataset.records.parquet import read_text_columns
from dataset.testsets.emu_edit import CAPTIONS, prepared_image, prepared_source, read_valid_list
from runtime.errors import UserError
from runtime.logging import progress

COLUMNS = ("instruction", "image", "task", "idx", *CAPTIONS)


def prepare_emu_edit(config: PrepareEmuEditConfig) -> Path:
    """Writes the set, or what an earlier run left undone.

    Returns:
      The valid list, as it was written.
    Raises:
      UserError: files that are not Emu Edit's, a folder made otherwise, too little space, too many bad rows.
    """
    given = None if config.valid_list is None else read_valid_list(config.valid_list)
    files = find_parquet(config.data_path, COLUMNS, f"{config.split}*.parquet")
    folder = Path(config.output_dir)
    name = f"emu_{config.split}"
    listing = folder / f"{name}_valid_list.json"
    settings = {"set": "emu_edit", "split": config.split}
    with claimed(folder, name, settings, ("images", "images_valid", listing.name)) as records:
        convert = partial(_convert, owners=_owners(files))
        outcome = export_rows(records, files, COLUMNS, convert, num_workers=config.num_workers, unit="image")
        rows = list(outcome.lines())
        entries = _valid_entries(rows) if given is None else given
        problems = _absent(entries, rows, config.valid_list)
        count = outcome.settle(records / "bad_items.txt", config.bad_sample_budget, problems)
        entries = _link_valid(folder, entries, {row["idx"] for row in rows})
        text = json.dumps(entries, indent=1, ensure_ascii=False)
        write_lines(listing, lambda: text.split("\n"))
    log.info("%s: %d images, %d of them on the valid list", folder, count, len(entries))
    return listing


def _owners(files: Sequence[Path]) -> dict[int, str]:
    """The row that each idx belongs to: the first that has it."""
    owners: dict[int, str] = {}
    for file in files:
        column = read_text_columns(file, ("idx",))["idx"]
        if not pa.types.is_integer(column.type):
            continue  # its rows are named one by one
        for row, idx in enumerate(column.to_pylist()):
            if idx is not None:
                owners.setdefault(idx, f"{file} row {row}")
    return owners


def _convert(row: Row, owners: dict[int, str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    idx = row.values["idx"]
    if type(idx) is not int:
        raise UserError(f"{row.origin}: idx must be a whole number, got {idx!r}")
    if owners[idx] != row.origin:
        raise UserError(f"{row.origin}: idx {idx} is that of {owners[idx]} already")
    image = check_image(image_cell(row.values["image"], f"{row.origin} image (idx {idx})"), "png")
    line = {"idx": idx, "instruction": row.text("instruction"), "task": row.optional_text("task")}
    return line | {key: row.optional_text(key) for key in CAPTIONS}, {f"images/{idx}.png": image.data}


def _valid_entries(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items that the metrics can judge: both captions are there, and they differ."""
    entries = []
    for row in rows:
        captions = {key: (row[key] or "").strip() for key in CAPTIONS}
        if all(captions.values()) and len(set(captions.values())) == len(CAPTIONS):
            entries.append({"idx": row["idx"], **captions, "edit_instruction": row["instruction"]})
    return sorted(entries, key=lambda entry: entry["idx"])


def _absent(entries: Iterable[dict[str, Any]], rows: Iterable[dict[str, Any]], name: str | None) -> list[str]:
    present = {row["idx"] for row in rows}
    return [f"{name}: no image for idx {e['idx']}" for e in entries if e["idx"] not in present]


def _link_valid(folder: Path, entries: list[dict[str, Any]], present: set[int]) -> list[dict[str, Any]]:
    """Puts the images of the list into `images_valid`; gives the entries that have one."""
    entries = [entry for entry in entries if entry["idx"] in present]
    (folder / "images_valid").mkdir(exist_ok=True)
    for entry in progress(entries, desc="images_valid", unit="image"):
        source, target = prepared_image(folder, entry["idx"]), prepared_source(folder, entry["idx"])
        if target.exists():
            if os.path.samefile(source, target) or filecmp.cmp(source, target, shallow=False):
                continue
            target.unlink()  # of a row that has been replaced since
        try:
            os.link(source, target)
        except OSError:  # a file system without hard links
            write_bytes(target, source.read_bytes())
    return entries
