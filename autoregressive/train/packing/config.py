"""The flags of the programs that write codes and packed training data."""

from __future__ import annotations

from dataclasses import dataclass

from autoregressive.train.flags.data import DataConfig
from dataset.choices import RULES, TEXT_FIELDS
from language.published import MAX_TOKENS
from runtime.config import check_ranges, option
from runtime.errors import UserError
from runtime.flags import models, shared, training
from runtime.flags.ranges import COUNT

_PACKED_ONLY = ("t5_path", "t5_model_type", "t5_feature_max_len", "t5_feature_dim", "t5_feat_path")


@dataclass(frozen=True)
class PackingConfig(DataConfig):
    """Flags of packing; those that training has too mean the same there."""

    packed_path: str | None = option(None, help="folder for packed training data: shards and a manifest")
    rows_per_shard: int = option(
        1024, within=COUNT, help="records in one shard; a stopped run loses at most one a rank"
    )
    batch_size: int = shared.batch_size(32, "samples a step and rank")

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        for name in ("data_path", "vq_ckpt"):
            if not getattr(self, name):
                raise UserError(f"--{name.replace('_', '-')} is missing")

    @property
    def max_text_tokens(self) -> int:
        return MAX_TOKENS if self.t5_feature_max_len is None else self.t5_feature_max_len


@dataclass(frozen=True)
class PackEditsConfig(PackingConfig):
    """Packs edit pairs for training: codes, mask bits and text features."""

    dataset: str = shared.dataset(["editing_ultraedit"])
    text_field: str | None = shared.text_field(TEXT_FIELDS)
    mask_rule: str = shared.mask_rule(RULES)
    mask_jitter: int = shared.mask_jitter()
    center_crop: bool = shared.center_crop()
    random_flip: bool = shared.random_flip("views")
    views: int = option(1, within=COUNT, help="crops, flips and jittered masks of each pair")
    global_seed: int = training.global_seed("of these: those of a training's epochs with that seed")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.packed_path:
            raise UserError("--packed-path is missing: give a folder for the packed data")
        if self.views > 1 and self.center_crop and not (self.random_flip or self.mask_jitter):
            raise UserError(
                f"--views {self.views} of a centre crop are all the same: leave out --center-crop, or add "
                "--random-flip or --mask-jitter"
            )


@dataclass(frozen=True)
class ExtractCodesConfig(PackingConfig):
    """Writes the codes of the images that lists name: a .npy each, or packed with the text features."""

    code_path: str | None = option(None, help="folder for codes, a .npy an image; or give --packed-path")
    data_start: int = shared.data_start()
    data_end: int | None = shared.data_end()
    vq_model: str = models.vq_model()
    image_size: int = models.image_size(512)
    dataset: str = shared.dataset(["t2i_cc12m", "t2i_laion_coco", "t2i"], " to pack")
    t5_feat_path: str | None = shared.t5_feat_path(", to pack")
    global_seed: str | None = training.no_global_seed()

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.code_path is None) == (self.packed_path is None):
            raise UserError("give one of --code-path (a .npy an image) and --packed-path (packed shards)")
        if self.code_path is not None:
            self._require_npy_flags()
        elif self.data_start or self.data_end is not None:
            raise UserError("--data-start and --data-end go with --code-path; name the lists to pack")
        elif self.t5_feat_path and self.dataset == "t2i_cc12m":
            raise UserError(
                "--t5-feat-path holds the features of a LlamaGen folder: add --dataset t2i_laion_coco; the "
                "lists of t2i_cc12m name theirs themselves"
            )

    def _require_npy_flags(self) -> None:
        if len(self.data_path) > 1:
            raise UserError("--code-path takes one --data-path: a folder of jsonl files, or one of them")
        for name in _PACKED_ONLY:
            if getattr(self, name) is not None:
                raise UserError(
                    f"--{name.replace('_', '-')} goes with --packed-path: a .npy holds codes only"
                )
