"""The flags of the programs that prepare published data sets; without PyTorch and Arrow, which are slow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.choices import IMAGE_FORMATS
from runtime.config import REQUIRED, check_ranges, option
from runtime.errors import UserError
from runtime.flags import models, shared
from runtime.flags.ranges import COUNT_OR_NONE, THREADS


def _threads() -> Any:
    return shared.num_workers(None, "threads; without it: one a core", within=THREADS)


def _new_folder() -> Any:
    return shared.output_dir(what="folder to write; a stopped run goes on there")


def _image_format(what: str) -> Any:
    return option("original", choices=IMAGE_FORMATS, help=what)


@dataclass(frozen=True)
class PrepareCaptionsConfig:
    """Makes a list of captioned images for stage 1."""

    data_path: str = option(
        REQUIRED, help="folder of images or of .tar shards, a .csv, .tsv or LLaVA .json file"
    )
    output_dir: str | None = shared.output_dir(None, "folder of the list; without it that of the images")
    name: str = option("captions", help="of the list, without .jsonl")
    image_root: str | None = option(
        None, help="where a table's or JSON's paths count from; without it its folder"
    )
    image_column: str | None = option(None, help="of a table; without it image_path, image, filepath, ...")
    caption_column: str | None = option(None, help="of a table; without it caption, text or title")
    min_side: int = option(
        256, within=COUNT_OR_NONE, help="leave out images whose short side is below this; 0 keeps all"
    )
    num_workers: int | None = _threads()
    bad_sample_budget: float = shared.bad_sample_budget(0.0, of="items")
    allow_outside_root: bool = shared.allow_outside_root(
        "images lie outside the folder that paths count from"
    )

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        if not Path(self.data_path).exists():
            raise UserError(f"--data-path {self.data_path} does not exist")
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise UserError(f"--name {self.name!r}: letters, digits, dots, - and _ only")


@dataclass(frozen=True)
class PrepareEmuEditConfig:
    """Turns Emu Edit's parquet files into images and a valid list."""

    data_path: list[str] = option(REQUIRED, help="the folder of the parquet files, or files of one split")
    output_dir: str = _new_folder()
    split: str = shared.split("which files of a folder to take")
    valid_list: str | None = shared.valid_list(
        "items to evaluate, such as assets/emu_test_data.json; without it all with two captions"
    )
    num_workers: int | None = _threads()
    bad_sample_budget: float = shared.bad_sample_budget(0.0, of="rows")

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))


@dataclass(frozen=True)
class PrepareMagicBrushConfig:
    """Prepares MagicBrush: the test folder, or the hub's parquet files."""

    magicbrush_path: str | None = shared.magicbrush_path(None, "test folder: edit_sessions.json and images/")
    write_white_masks: bool = option(False, help="write X-maskK_white.png beside X-maskK.png")
    t5_path: str | None = models.t5_path(": write text features")
    t5_model_type: str = models.t5_model_type(
        "flan-t5-xl", "the text encoder's folder there, or its name on the hub"
    )
    precision: str = models.precision("the text encoder's arithmetic", "bf16")
    batch_size: int = shared.batch_size(32, "instructions a step and rank")
    hub_parquet: list[str] | None = option(None, help="parquet files of train or dev, or folders of them")
    output_dir: str | None = shared.output_dir(None, "folder for what is made of --hub-parquet")
    image_format: str = _image_format("of --hub-parquet: original keeps the files' bytes")
    num_workers: int | None = _threads()
    bad_sample_budget: float = shared.bad_sample_budget(0.0, of="items")
    allow_outside_root: bool = shared.allow_outside_root("images lie outside the test folder")
    device: str = shared.device("of the text encoder")

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        if (self.magicbrush_path is None) == (self.hub_parquet is None):
            raise UserError("give either --magicbrush-path (the test folder) or --hub-parquet (train, dev)")
        if self.hub_parquet is not None and self.output_dir is None:
            raise UserError("--hub-parquet needs --output-dir")


@dataclass(frozen=True)
class PrepareUltraEditConfig:
    """Turns UltraEdit's parquet files into a list, images and masks."""

    data_path: list[str] = option(REQUIRED, help="parquet files, or folders of them")
    output_dir: str = _new_folder()
    image_format: str = _image_format("original keeps the files' bytes; png or jpg encodes others")
    num_workers: int | None = _threads()
    bad_sample_budget: float = shared.bad_sample_budget(0.0, of="rows")

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
