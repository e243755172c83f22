"""The flags of the programs that prepare published data sets; without PyTorch and Arrow, which are slow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dataset.choices import IMAGE_FORMATS
from dataset.prepare.output import require_options
from runtime.config import REQUIRED, option
from runtime.errors import UserError
from runtime.flags import shared
from runtime.flags.choices import PRECISION_NAMES
from runtime.flags.ranges import COUNT, COUNT_OR_NONE, THREADS


@dataclass(frozen=True)
class PrepareCaptionsConfig:
    """Makes a list of captioned images for stage 1."""

    data_path: str = option(
        REQUIRED, help="folder of images or of .tar shards, a .csv, .tsv or LLaVA .json file"
    )
    output_dir: str | None = option(None, help="folder of the list; without it that of the images")
    name: str = option("captions", help="of the list, without .jsonl")
    image_root: str | None = option(
        None, help="where a table's or JSON's paths count from; without it its folder"
    )
    image_column: str | None = option(None, help="of a table; without it image_path, image, filepath, ...")
    caption_column: str | None = option(None, help="of a table; without it caption, text or title")
    min_side: int = option(
        256, within=COUNT_OR_NONE, help="leave out images whose short side is below this; 0 keeps all"
    )
    num_workers: int | None = option(None, within=THREADS, help="threads; without it: one a core")
    bad_sample_budget: float = shared.bad_sample_budget(0.0, of="items")
    allow_outside_root: bool = option(False, help="accept images outside the folder that paths count from")

    def __post_init__(self) -> None:
        require_options(self)
        if not Path(self.data_path).exists():
            raise UserError(f"--data-path {self.data_path} does not exist")
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise UserError(f"--name {self.name!r}: letters, digits, dots, - and _ only")


@dataclass(frozen=True)
class PrepareEmuEditConfig:
    """Turns Emu Edit's parquet files into images and a valid list."""

    data_path: list[str] = option(REQUIRED, help="the folder of the parquet files, or files of one split")
    output_dir: str = option(REQUIRED, help="folder to write; a stopped run goes on there")
    split: str = option("test", choices=("test", "validation"), help="which files of a folder to take")
    valid_list: str | None = option(
        None, help="items to evaluate, such as assets/emu_test_data.json; without it all with two captions"
    )
    num_workers: int | None = option(None, within=THREADS, help="threads; without it: one a core")
    bad_sample_budget: float = shared.bad_sample_budget(0.0, of="rows")

    def __post_init__(self) -> None:
        require_options(self)


@dataclass(frozen=True)
class PrepareMagicBrushConfig:
    """Prepares MagicBrush: the test folder, or the hub's parquet files."""

    magicbrush_path: str | None = option(None, help="test folder: edit_sessions.json and images/")
    write_white_masks: bool = option(False, help="write X-maskK_white.png beside X-maskK.png")
    t5_path: str | None = option(None, help="folder of text encoders, or one of them: write text features")
    t5_model_type: str = option("flan-t5-xl", help="the text encoder's folder there, or its name on the hub")
    precision: str = option("bf16", help="arithmetic of the text encoder", choices=list(PRECISION_NAMES))
    batch_size: int = option(32, within=COUNT, help="instructions a step and rank")
    hub_parquet: list[str] | None = option(None, help="parquet files of train or dev, or folders of them")
    output_dir: str | None = option(None, help="folder for what is made of --hub-parquet")
    image_format: str = option(
        "original", choices=IMAGE_FORMATS, help="of --hub-parquet: original keeps the files' bytes"
    )
    num_workers: int | None = option(None, within=THREADS, help="threads; without it: one a core")
    bad_sample_budget: float = shared.bad_sample_budget(0.0, of="items")
    allow_outside_root: bool = option(False, help="accept images outside the test folder")
    device: str = option("auto", help="of the text encoder: auto, cpu or cuda")

    def __post_init__(self) -> None:
        require_options(self)
        if (self.magicbrush_path is None) == (self.hub_parquet is None):
            raise UserError("give either --magicbrush-path (the test folder) or --hub-parquet (train, dev)")
        if self.hub_parquet is not None and self.output_dir is None:
            raise UserError("--hub-parquet needs --output-dir")


@dataclass(frozen=True)
class PrepareUltraEditConfig:
    """Turns UltraEdit's parquet files into a list, images and masks."""

    data_path: list[str] = option(REQUIRED, help="parquet files, or folders of them")
    output_dir: str = option(REQUIRED, help="folder to write; a stopped run goes on there")
    image_format: str = option(
        "original", choices=IMAGE_FORMATS, help="original keeps the files' bytes; png or jpg encodes others"
    )
    num_workers: int | None = option(None, within=THREADS, help="threads; without it: one a core")
    bad_sample_budget: float = shared.bad_sample_budget(0.0, of="rows")

    def __post_init__(self) -> None:
        require_options(self)
