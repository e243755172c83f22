"""The flags that the programs share that write packed training data."""

from __future__ import annotations

from dataclasses import dataclass

from autoregressive.train.config import PUBLISHED_TEXT_WIDTH
from language.published import DEFAULT_T5, MAX_TOKENS
from runtime.choices import PRECISION_NAMES
from runtime.config import check_ranges, option
from runtime.errors import UserError
from runtime.ranges import COUNT, SHARE, SIZE, WORKERS


@dataclass(frozen=True)
class PackingConfig:
    """Flags of packing; those that training has too mean the same there."""

    data_path: list[str] | None = option(None, help="data lists (or a folder)", aliases=["data_paths"])
    packed_path: str | None = option(None, help="folder for packed training data: shards and a manifest")
    vq_ckpt: str | None = option(None, help="tokenizer checkpoint")
    vq_model: str | None = option(None, help="tokenizer name, for files that do not hold it (VQ-16 then)")
    codebook_size: int | None = option(None, within=COUNT, help="codes; must be the tokenizer's")
    codebook_embed_dim: int | None = option(None, within=SIZE, help="code width; must be the tokenizer's")
    vocab_size: int | None = option(None, within=COUNT, help="codes; must be the tokenizer's")
    downsample_size: int | None = option(
        None, within=SIZE, help="pixels per cell side; must be the tokenizer's"
    )
    image_size: int = option(256, within=SIZE, help="side of the square images, pixels")
    t5_path: str | None = option(None, help="folder of the text encoder, or of several")
    t5_model_type: str | None = option(
        None, help=f"text encoder in that folder, or in the hub cache (default with --t5-path: {DEFAULT_T5})"
    )
    t5_feature_max_len: int | None = option(
        None, within=SIZE, help=f"longer texts lose their end (default: {MAX_TOKENS})"
    )
    t5_feature_dim: int | None = option(
        None,
        within=SIZE,
        help=f"width of ready-made text features (default without a text encoder: {PUBLISHED_TEXT_WIDTH})",
    )
    precision: str = option(
        "none", help="type of the text encoder's weights", choices=sorted(PRECISION_NAMES)
    )
    rows_per_shard: int = option(
        1024, within=COUNT, help="records in one shard; a stopped run loses at most one a rank"
    )
    batch_size: int = option(32, within=COUNT, help="samples a step and rank")
    num_workers: int = option(4, within=WORKERS, help="loader processes a rank")
    bad_sample_budget: float = option(
        0.01, within=SHARE, help="share of unusable images past which the run fails"
    )
    allow_outside_root: bool = option(False, help="let data lists name files outside their own folder")
    absolute_paths: bool = option(
        False, help="the list is your own: absolute paths in it are taken as they are"
    )
    device: str = option("auto", help="auto, cpu or cuda")

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        for name in ("data_path", "vq_ckpt"):
            if not getattr(self, name):
                raise UserError(f"--{name.replace('_', '-')} is missing")

    @property
    def max_text_tokens(self) -> int:
        return MAX_TOKENS if self.t5_feature_max_len is None else self.t5_feature_max_len
