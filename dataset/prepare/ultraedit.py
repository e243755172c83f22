"""The work of prepare_ultraedit.py, whose head explains it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from dataset.prepare.flags import PrepareUltraEditConfig
from dataset.prepare.output import claimed, log, write_jsonl
from dataset.prepare.pairs import pair_files
from dataset.prepare.pictures import image_cell
from dataset.prepare.tables import Row, export_rows, find_parquet
from dataset.records.masks import load_edit_region
from dataset.records.parquet import require_text

NAME = "ultraedit"
IMAGES = ("source_image", "edited_image")
CAPTIONS = {"source_caption": "input_caption", "target_caption": "output_caption"}
COLUMNS = (*IMAGES, "mask_image", "edit_prompt", *CAPTIONS)


def prepare_ultraedit(config: PrepareUltraEditConfig) -> Path:
    """Writes the set, or what an earlier run left undone.

    Returns:
      The list.
    Raises:
      UserError: files that are not UltraEdit's, a folder made otherwise, too little space, too many bad rows.
    """
    files = find_parquet(config.data_path, (*IMAGES, "edit_prompt"))
    folder = Path(config.output_dir)
    listing = folder / f"{NAME}.jsonl"
    settings = {"set": NAME, "image_format": config.image_format}
    with claimed(folder, NAME, settings, writes=("images", "masks", listing.name)) as records:
        convert = partial(_convert, image_format=config.image_format)
        outcome = export_rows(records, files, COLUMNS, convert, num_workers=config.num_workers, unit="pair")
        count = outcome.settle(records / "bad_items.txt", config.bad_sample_budget)
        write_jsonl(listing, outcome.lines)
    log.info("%s: %d pairs", listing, count)
    return listing


def _convert(row: Row, image_format: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    texts = {"edit_prompt": row.text("edit_prompt")}
    texts |= {
        key: require_text(row.values[column], column, row.origin, optional=True)
        for column, key in CAPTIONS.items()
        if column in row.values
    }
    cell = row.values.get("mask_image")
    region = None if cell is None else load_edit_region(image_cell(cell, f"{row.origin} mask_image"))
    line, files = pair_files(row, IMAGES, region, image_format)
    return line | texts, files
