"""Flags and loading shared by the sampling programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from autoregressive.decoding.sampling import Sampling
from autoregressive.editing.auto_mask import AutoMaskSettings
from autoregressive.editing.choices import COMPOSITES, MODES
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.models.gpt import GPT_MODELS
from dataset.edit_masks import RULES, EmptyMaskError
from dataset.records.images import marked
from language.t5 import DEFAULT_T5, T5Encoder
from runtime.config import REQUIRED, check_ranges, option
from runtime.errors import UserError
from runtime.files import file_sha256
from runtime.flags.ranges import (
    COUNT,
    COUNT_OR_NONE,
    GUIDANCE,
    PERIOD,
    PIXELS,
    SEED,
    SHARE_ABOVE_NONE,
    SIZE,
    WEIGHT,
)
from runtime.logging import get_logger
from runtime.precision import PRECISIONS

log = get_logger(__name__)
# Flags that change no result, in any program: where weights and test sets are (their content is hashed), what
# to make and where, what must be as the models are, and what has no effect.
NOT_SETTINGS = (
    *("vq_ckpt", "gpt_ckpt", "t5_path", "t5_model_type"),
    *("magicbrush_path", "allow_outside_root", "emu_path", "valid_list", "split", "prompt_csv"),
    *("turns", "num_fid_samples", "output_dir", "sample_dir", "write_ceiling", "device", "batch_size"),
    *("t5_feature_dim", "cls_token_num", "codebook_size", "codebook_embed_dim", "downsample_size"),
    *("gpt_type", "num_classes", "no_left_padding"),
)


@dataclass(frozen=True)
class SampleConfig:
    """Flags of every sampling program."""

    TOPICS: ClassVar[dict[str, str]] = {
        "vq_ckpt": "models",
        "device": "running",
        "cfg_scale": "how codes are drawn",
    }

    vq_ckpt: str = option(REQUIRED, help="tokenizer checkpoint")
    gpt_ckpt: str = option(REQUIRED, help="transformer checkpoint")
    t5_path: str | None = option(None, help="folder of the text encoder, or of several; else the hub cache")
    t5_model_type: str = option(DEFAULT_T5, help="text encoder in that folder or cache")
    vq_model: str = option("VQ-16", help="tokenizer name, for files that do not hold it")
    gpt_model: str | None = option(
        None, help="transformer name, for files that do not hold it", choices=sorted(GPT_MODELS)
    )
    image_size: int | None = option(
        None, within=SIZE, help="side of the model's images, for files that do not hold it"
    )
    device: str = option("auto", help="auto, cpu or cuda")
    precision: str = option("none", help="of the transformer's weights", choices=sorted(PRECISIONS))
    seed: int = option(0, within=SEED, help="of the draws", aliases=["global_seed"])
    batch_size: int = option(32, within=COUNT, help="images at a time", aliases=["per_proc_batch_size"])
    cfg_scale: float = option(7.5, within=GUIDANCE, help="guidance; 1 for none (small models want 1 to 1.5)")
    cfg_interval: int = option(
        -1, within=PERIOD, help="k: guidance in the first k+1 decoding steps only; -1 for all"
    )
    temperature: float = option(1.0, within=WEIGHT, help="of the draws")
    top_k: int = option(1000, within=COUNT_OR_NONE, help="likeliest codes kept; 0 for all")
    top_p: float = option(1.0, within=SHARE_ABOVE_NONE, help="share of probability kept")
    compile: bool = option(False, help="compile the decoding steps, on GPUs: slow to start, then faster")
    greedy: bool = option(False, help="always take the likeliest code")

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        self.sampling()  # checks its values

    def sampling(self) -> Sampling:
        return Sampling(
            self.cfg_scale, self.cfg_interval, self.temperature, self.top_k, self.top_p, not self.greedy
        )

    def settings(self, text_encoder: T5Encoder | None) -> dict[str, Any]:
        """What the results depend on: the flags, with hashes of the weights and of the text encoder."""
        settings = {k: v for k, v in asdict(self).items() if k not in NOT_SETTINGS}
        for name in ("vq_ckpt", "gpt_ckpt"):
            settings[f"{name}_sha256"] = file_sha256(getattr(self, name))
        return settings | {"text_encoder": text_encoder and text_encoder.fingerprint()}

    def load_pipeline(self, device: torch.device, *, with_text_encoder: bool = True) -> EditingPipeline:
        pipeline = EditingPipeline.load(
            self.vq_ckpt,
            self.gpt_ckpt,
            self.t5_path,
            self.t5_model_type,
            vq_model=self.vq_model,
            gpt_model=self.gpt_model,
            image_size=self.image_size,
            with_text_encoder=with_text_encoder,
            device=device,
            dtype=PRECISIONS[self.precision],
        )
        if self.compile and device.type == "cuda":
            pipeline.engine.compile_steps()
        elif self.compile:
            log.warning("--compile has no use on a %s: its plain steps are the faster ones", device.type)
        return pipeline


@dataclass(frozen=True)
class EditSampleConfig(SampleConfig):
    """Flags of the editing programs."""

    TOPICS: ClassVar[dict[str, str]] = {"mode": "which cells, and how they are put back"}

    mode: str | None = option(
        None, help="how to edit; default: marks if the model has them, else zero_shot", choices=MODES
    )
    full_mask: bool = option(False, help="regenerate every cell", aliases=["enforce_fake_masking"])
    mask_rule: str = option("published", help="pixel mask to cells", choices=RULES)
    mask_error: int = option(
        0, within=PIXELS, help="widen each mask by this many of its pixels first; below 0: shrink it"
    )
    random_order: bool = option(False, help="draw the edited cells in random order")
    composite: str = option("cells", help="which pixels come from the decoder", choices=COMPOSITES)
    auto_mask: bool = option(False, help="find the cells to edit from the prompt, whatever the masks say")
    auto_mask_settings: str | None = option(
        None, help="how to find them: the .json of scripts/calibrate_auto_mask.py; else the defaults"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.auto_mask and self.full_mask:
            raise UserError("--auto-mask finds the region, --full-mask takes every cell: give one of them")
        if self.mask_error and (self.full_mask or self.auto_mask):
            raise UserError("--mask-error moves the outline of masks: leave out --full-mask and --auto-mask")

    def settings(self, text_encoder: T5Encoder | None) -> dict[str, Any]:
        """As `SampleConfig.settings`; with the values of the file in place of its name."""
        return super().settings(text_encoder) | {"auto_mask_settings": asdict(self._auto_mask())}

    def _auto_mask(self) -> AutoMaskSettings:
        path = self.auto_mask_settings
        return AutoMaskSettings() if path is None else AutoMaskSettings.load(path)

    def edit_options(self) -> dict[str, Any]:
        """The keyword arguments of `EditingPipeline.edit` that the flags decide."""
        return {
            "sampling": self.sampling(),
            "mode": self.mode,
            "mask_rule": self.mask_rule,
            "mask_error": self.mask_error,
            "random_order": self.random_order,
            "composite": self.composite,
            "auto_mask": self._auto_mask(),
        }


def require_marked(mask: np.ndarray, source: Path) -> np.ndarray:
    """The (H, W) mask itself, above 0.5 = edit.

    Raises:
      EmptyMaskError: it marks nothing; names its file.
    """
    if not marked(mask).any():
        raise EmptyMaskError(f"{source}: marks no pixel to edit; mark the region, or leave this edit out")
    return mask
