"""The flags of data and of its frozen encoders: of the two stages and of packing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from language.published import DEFAULT_T5
from runtime.config import option
from runtime.flags import models, shared
from runtime.flags.ranges import COUNT

PUBLISHED_TEXT_WIDTH = 2048  # FLAN-T5-XL's


@dataclass(frozen=True)
class DataConfig:
    """What is read, and what turns it into codes and text features."""

    TOPICS: ClassVar[dict[str, str]] = {
        "data_path": "data",
        "vq_ckpt": "tokenizer",
        "t5_path": "text",
        "num_workers": "reading",
    }

    data_path: list[str] | None = option(None, help="data lists (or a folder)", aliases=["data_paths"])
    vq_ckpt: str | None = models.vq_ckpt()
    vq_model: str | None = models.vq_model(None)
    codebook_size: int | None = models.codebook_size()
    codebook_embed_dim: int | None = models.codebook_embed_dim()
    vocab_size: int | None = option(None, within=COUNT, help="codes; must be the tokenizer's")
    downsample_size: int | None = models.downsample_size()
    image_size: int = models.image_size()
    t5_path: str | None = models.t5_path("; encodes text on the fly")
    t5_model_type: str | None = models.t5_model_type(
        None, f"text encoder in that folder, or in the hub cache (default with --t5-path: {DEFAULT_T5})"
    )
    t5_feature_max_len: int | None = models.t5_feature_max_len(
        "longer texts lose their end (default: as many tokens as the model reads)"
    )
    t5_feature_dim: int | None = models.t5_feature_dim(
        f"width of ready-made text features (default without a text encoder: {PUBLISHED_TEXT_WIDTH})"
    )
    precision: str = models.precision("the text encoder's weights")
    num_workers: int = shared.num_workers(4, "loader processes a rank")
    bad_sample_budget: float = shared.bad_sample_budget(0.01)
    allow_outside_root: bool = shared.allow_outside_root()
    absolute_paths: bool = shared.absolute_paths()
    device: str = shared.device()
