"""Loading what the sampling programs work with: the models that the flags name, masks that mark something."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sample.flags import DrawConfig, SampleConfig
from dataset.edit_masks import EmptyMaskError
from dataset.records.masks import marked
from runtime.devices import DECODING_PRECISIONS
from runtime.errors import UserError
from runtime.logging import get_logger
from tokenizer.tokenizer_image.vq_model import require_config

log = get_logger(__name__)


def load_pipeline(
    config: SampleConfig, device: torch.device, *, with_text_encoder: bool = True
) -> EditingPipeline:
    """Loads the models that the flags name.

    Raises:
      UserError: a file that is missing, or that contradicts what the flags say of it.
    """
    pipeline = EditingPipeline.load(
        config.vq_ckpt,
        config.gpt_ckpt,
        config.t5_path,
        config.t5_model_type,
        vq_model=config.vq_model,
        gpt_model=config.gpt_model,
        image_size=config.image_size,
        with_text_encoder=with_text_encoder,
        device=device,
        dtype=DECODING_PRECISIONS[config.precision],
    )
    if config.adapter is not None:
        pipeline.load_adapter(config.adapter)
        pipeline.set_adapter("default")
        pipeline.merge_adapter()
    if config.compile and device.type == "cuda":
        pipeline.engine.compile_steps()
    elif config.compile:
        log.warning("--compile has no use on a %s: its plain steps are the faster ones", device.type)
    if isinstance(config, DrawConfig):
        _require_described(pipeline, config)
    return pipeline


def _require_described(pipeline: EditingPipeline, config: DrawConfig) -> None:
    """Compares the models with what the flags say of them, and limits the texts as asked."""
    require_config(
        pipeline.tokenizer,
        config.vq_ckpt,
        codebook_size=config.codebook_size,
        codebook_embed_dim=config.codebook_embed_dim,
        downsample_size=config.downsample_size,
    )
    model = pipeline.transformer.config
    for flag, asked, actual in (
        ("--cls-token-num", config.cls_token_num, model.cls_token_num),
        ("--t5-feature-dim", config.t5_feature_dim, model.caption_dim),
    ):
        if asked not in (None, actual):
            raise UserError(f"{flag} {asked} contradicts {config.gpt_ckpt}, which has {actual}")
    if config.t5_feature_max_len is not None:
        slots = model.cls_token_num
        if not 1 <= config.t5_feature_max_len <= slots:
            raise UserError(f"--t5-feature-max-len {config.t5_feature_max_len}: the model has {slots} slots")
        pipeline.text_encoder.max_tokens = config.t5_feature_max_len


def note_unknown_words(pipeline: EditingPipeline, texts: Sequence[str]) -> None:
    """Warns of words that the model does not know, once for all texts."""
    if pipeline.text_encoder is not None and (told := pipeline.text_encoder.tokenizer.told_unknown(texts)):
        log.warning("%s", told)


def require_marked(mask: np.ndarray, source: Path) -> np.ndarray:
    """The (H, W) mask itself, above 0.5 = edit.

    Raises:
      EmptyMaskError: it marks nothing; names its file.
    """
    if not marked(mask).any():
        raise EmptyMaskError(f"{source}: marks no pixel to edit; mark the region, or leave this edit out")
    return mask
