"""The flags of the programs that make text encoders and text features."""

from __future__ import annotations

from dataclasses import dataclass

from language.published import DEFAULT_T5, PUBLISHED_FOLDER
from runtime.config import REQUIRED, legacy, option
from runtime.flags import shared
from runtime.flags.choices import PRECISION_NAMES
from runtime.flags.ranges import COUNT, COUNT_OR_NONE, SEED, SIZE


@dataclass
class ExtractConfig:
    """Writes the T5 features of the captions in jsonl files."""

    data_path: str = option(REQUIRED, help="a folder of jsonl files, or one jsonl file")
    output_dir: str | None = option(
        None,
        help="folder for the features; without it: t5_features beside the jsonl file",
        aliases=("t5_path", "t5_feat_path"),
    )
    data_start: int = option(
        0, within=COUNT_OR_NONE, help="first jsonl file of a folder, from 0, in the order of their names"
    )
    data_end: int | None = option(
        None, within=COUNT_OR_NONE, help="last jsonl file of a folder, included; without it: all"
    )
    caption_key: str = option(
        "blip",
        help="blip, llava or llava_first: entry 0, 1, 2 of `text` (a string counts as blip); else a key",
    )
    trunc_caption: bool = option(False, help="keep the caption up to its first full stop only")
    t5_model_path: str = option(str(PUBLISHED_FOLDER), help="folder of text encoders, or one of them")
    t5_model_type: str = option(DEFAULT_T5, help="the text encoder's folder there, or its name on the hub")
    precision: str = option("bf16", help="arithmetic of the text encoder", choices=list(PRECISION_NAMES))
    batch_size: int = option(32, within=COUNT, help="captions a step and rank")
    device: str = shared.device()
    global_seed: str | None = legacy("nothing is random here")
    num_workers: str | None = legacy("reading captions takes no time beside the encoder")


@dataclass
class SmallT5Config:
    """Makes the small text encoder of the embedded data set."""

    texts: list[str] = option(REQUIRED, help="jsonl files whose captions and instructions it must know")
    output_dir: str = option(REQUIRED, help="folder for the encoder; give it to --t5-path")
    width: int = option(128, within=SIZE, help="feature width, the caption width of the image model")
    seed: int = option(0, within=SEED, help="seed of the word vectors and rotations")
