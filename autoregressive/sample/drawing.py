"""Drawing images from texts, any number of ranks sharing the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sample.common import SampleConfig
from autoregressive.sequence.orders import random_orders
from runtime.config import legacy, option
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.flags.ranges import COUNT, SIZE
from runtime.logging import progress
from runtime.pictures import save_picture
from tokenizer.tokenizer_image.vq_model import require_config


@dataclass(frozen=True)
class DrawConfig(SampleConfig):
    """Flags of the programs that draw from texts, LlamaGen's among them."""

    order: str = option(
        "raster",
        help="in which the cells are drawn; random needs an R-GPT model",
        choices=["raster", "random"],
    )
    t5_feature_max_len: int | None = option(
        None, within=SIZE, help="most text tokens; default: as many as the model reads"
    )
    t5_feature_dim: int | None = option(
        None, within=SIZE, help="width of the text features; must be the model's"
    )
    cls_token_num: int | None = option(None, within=SIZE, help="text slots; must be the model's")
    codebook_size: int | None = option(None, within=COUNT, help="codes; must be the tokenizer's")
    codebook_embed_dim: int | None = option(None, within=SIZE, help="code width; must be the tokenizer's")
    downsample_size: int | None = option(
        None, within=SIZE, help="pixels per cell side; must be the tokenizer's"
    )

    gpt_type: str = legacy("one transformer serves every kind of conditioning")
    num_classes: str = legacy("there is no class-conditional model")
    no_left_padding: bool = legacy(
        "text stands right before the image cells, as in every published checkpoint", takes_value=False
    )

    def load_pipeline(self, device: torch.device) -> EditingPipeline:
        """Loads the models, and compares them with what the flags say of them."""
        pipeline = super().load_pipeline(device)
        require_config(
            pipeline.tokenizer,
            self.vq_ckpt,
            codebook_size=self.codebook_size,
            codebook_embed_dim=self.codebook_embed_dim,
            downsample_size=self.downsample_size,
        )
        model = pipeline.transformer.config
        for flag, asked, actual in (
            ("--cls-token-num", self.cls_token_num, model.cls_token_num),
            ("--t5-feature-dim", self.t5_feature_dim, model.caption_dim),
        ):
            if asked not in (None, actual):
                raise UserError(f"{flag} {asked} contradicts {self.gpt_ckpt}, which has {actual}")
        if self.t5_feature_max_len is not None:
            slots = model.cls_token_num
            if not 1 <= self.t5_feature_max_len <= slots:
                raise UserError(
                    f"--t5-feature-max-len {self.t5_feature_max_len}: the model has {slots} slots"
                )
            pipeline.text_encoder.max_tokens = self.t5_feature_max_len
        return pipeline


@dataclass(frozen=True)
class DrawJob:
    """One image to draw; the result hangs on text and seed alone."""

    text: str
    seed: int
    path: Path


def draw_jobs(
    pipeline: EditingPipeline, jobs: Sequence[DrawJob], config: DrawConfig, ranks: Distributed
) -> None:
    """Draws the jobs of this rank and writes them as PNG files, each whole or not at all."""
    if config.order == "random" and not pipeline.transformer.config.any_order:
        raise UserError(f"--order random: {config.gpt_ckpt} holds a raster-order GPT model, not an R-GPT one")
    num_cells = pipeline.grid**2
    with progress(total=len(jobs), desc="drawing", unit="image", disable=not ranks.is_main) as bar:
        for start in range(0, len(jobs), config.batch_size):
            batch = jobs[start : start + config.batch_size]
            seeds = [job.seed for job in batch]
            orders = torch.arange(num_cells).expand(len(batch), -1)
            if config.order == "random":
                orders = random_orders(seeds, num_cells)
            texts = [job.text for job in batch]
            images = pipeline.draw(texts, seeds=seeds, sampling=config.sampling(), orders=orders)
            for job, image in zip(batch, images, strict=True):
                save_picture(image, job.path)
            bar.update(len(batch))
