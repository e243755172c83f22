"""Turns UltraEdit's parquet files into the list, images and masks that stage 2 trains on.

python dataset/prepare_ultraedit.py --data-path UltraEdit/data --output-dir data/ultraedit

ultraedit.jsonl            file_name, edited_image, mask_image or NONE, edit_prompt, input_ and output_caption
images/, masks/            one folder for each parquet file; masks are white where the edit may be
ultraedit_preparation/     what is done: start the command again after a stop, or with more files;
                           bad_items.txt there names the rows that cannot be used

Image files are kept byte for byte (`--image-format png` or `jpg` encodes others anew). A mask that is white
all over is UltraEdit's sign for a free-form edit: NONE. Train with `--dataset editing_ultraedit --data-path
data/ultraedit/ultraedit.jsonl`; text features can be made first:

python language/extract_t5_feature.py --data-path data/ultraedit/ultraedit.jsonl --caption-key output_caption
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dataset.prepare.output import claimed, log, require_options, write_jsonl
from dataset.prepare.pairs import pair_files
from dataset.prepare.pictures import IMAGE_FORMATS, image_cell
from dataset.prepare.tables import Row, export_rows, find_parquet
from dataset.records.images import load_edit_region
from dataset.records.parquet import require_text
from runtime.config import REQUIRED, option, parse
from runtime.errors import run_command
from runtime.flags.ranges import SHARE, THREADS

NAME = "ultraedit"
IMAGES = ("source_image", "edited_image")
CAPTIONS = {"source_caption": "input_caption", "target_caption": "output_caption"}
COLUMNS = (*IMAGES, "mask_image", "edit_prompt", *CAPTIONS)


@dataclass(frozen=True)
class PrepareUltraEditConfig:
    """Turns UltraEdit's parquet files into a list, images and masks."""

    data_path: list[str] = option(REQUIRED, help="parquet files, or folders of them")
    output_dir: str = option(REQUIRED, help="folder to write; a stopped run goes on there")
    image_format: str = option(
        "original", choices=IMAGE_FORMATS, help="original keeps the files' bytes; png or jpg encodes others"
    )
    num_workers: int | None = option(None, within=THREADS, help="threads; without it: one a core")
    bad_sample_budget: float = option(0.0, within=SHARE, help="share of unusable rows, 0 to 1, to go without")

    def __post_init__(self) -> None:
        require_options(self)


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


if __name__ == "__main__":
    run_command(lambda: prepare_ultraedit(parse(PrepareUltraEditConfig)))
