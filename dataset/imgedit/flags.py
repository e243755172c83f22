"""The flags of prepare_imgedit.py, without PyTorch and Arrow, which are slow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dataset.choices import IMAGE_FORMATS
from runtime.config import REQUIRED, check_ranges, option
from runtime.errors import UserError
from runtime.flags import shared
from runtime.flags.ranges import THREADS

EDIT_TYPES = ("add", "adjust", "background", "remove", "replace")
"""Single-turn edits that were made inside of one object's mask."""


@dataclass(frozen=True)
class PrepareImgEditConfig:
    """Turns ImgEdit's pairs with an edited object into a list, images and masks."""

    data_path: str = option(REQUIRED, help="folder with Parquet/ and Singleturn/, archives or unpacked")
    masks_path: str | None = option(
        None, help="folder of ImgEdit_recap_mask, with jsons/: for pairs without a mask.png of their own"
    )
    output_dir: str = shared.output_dir(what="folder to write; a stopped run goes on there")
    edit_types: list[str] = option(list(EDIT_TYPES), choices=EDIT_TYPES, help="whose parquet files to take")
    image_format: str = option(
        "original", choices=IMAGE_FORMATS, help="original keeps the files' bytes; png or jpg encodes others"
    )
    num_workers: int | None = shared.num_workers(None, "threads; without it: one a core", within=THREADS)
    bad_sample_budget: float = shared.bad_sample_budget(0.0, of="rows")

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        if not (Path(self.data_path) / "Parquet").is_dir():
            raise UserError(f"--data-path {self.data_path}: no Parquet/ in it; download ImgEdit there")
        if self.masks_path is not None and not (Path(self.masks_path) / "jsons").is_dir():
            raise UserError(f"--masks-path {self.masks_path}: no jsons/ in it; download ImgEdit_recap_mask")
