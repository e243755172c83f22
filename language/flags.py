"""The flags of the programs that make text encoders and text features."""

from __future__ import annotations

from dataclasses import dataclass

from language.published import DEFAULT_T5, PUBLISHED_FOLDER
from runtime.config import REQUIRED, legacy, option
from runtime.flags import models, shared, training
from runtime.flags.ranges import SIZE


@dataclass
class ExtractConfig:
    """Writes the T5 features of the captions in jsonl files."""

    data_path: str = option(REQUIRED, help="a folder of jsonl files, or one jsonl file")
    output_dir: str | None = shared.output_dir(
        None,
        "folder for the features; without it: t5_features beside the jsonl file",
        aliases=("t5_path", "t5_feat_path"),
    )
    data_start: int = shared.data_start()
    data_end: int | None = shared.data_end()
    caption_key: str = option(
        "blip",
        help="blip, llava or llava_first: entry 0, 1, 2 of `text` (a string counts as blip); else a key",
    )
    trunc_caption: bool = option(False, help="keep the caption up to its first full stop only")
    t5_model_path: str = option(str(PUBLISHED_FOLDER), help="folder of text encoders, or one of them")
    t5_model_type: str = models.t5_model_type(
        DEFAULT_T5, "the text encoder's folder there, or its name on the hub"
    )
    precision: str = models.precision("the text encoder's arithmetic", "bf16")
    batch_size: int = shared.batch_size(32, "captions a step and rank")
    device: str = shared.device()
    global_seed: str | None = training.no_global_seed()
    num_workers: str | None = legacy("reading captions takes no time beside the encoder")


@dataclass
class SmallT5Config:
    """Makes the small text encoder of the embedded data set."""

    texts: list[str] = option(REQUIRED, help="jsonl files whose captions and instructions it must know")
    output_dir: str = shared.output_dir(what="folder for the encoder; give it to --t5-path")
    width: int = option(128, within=SIZE, help="feature width, the caption width of the image model")
    seed: int = shared.seed("of the word vectors and rotations")
