"""Drawing images from texts, any number of ranks sharing the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autoregressive.layout import random_orders
from autoregressive.pipeline import EditingPipeline
from autoregressive.sample.common import SampleConfig
from dataset.images import save_png
from runtime.config import option
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.logging import progress


@dataclass(frozen=True)
class DrawConfig(SampleConfig):
    """Flags of the programs that draw from texts."""

    order: str = option(
        "raster",
        help="in which the cells are drawn; random needs an R-GPT model",
        choices=["raster", "random"],
    )


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
    model = pipeline.transformer.config
    if config.order == "random" and not model.any_order:
        raise UserError(f"--order random: {config.gpt_ckpt} holds a raster-order GPT model, not an R-GPT one")
    with progress(total=len(jobs), desc="drawing", unit="image", disable=not ranks.is_main) as bar:
        for start in range(0, len(jobs), config.batch_size):
            batch = jobs[start : start + config.batch_size]
            seeds = [job.seed for job in batch]
            orders = torch.arange(model.block_size).expand(len(batch), -1)
            if config.order == "random":
                orders = random_orders(seeds, model.block_size)
            texts = [job.text for job in batch]
            images = pipeline.draw(texts, seeds=seeds, sampling=config.sampling(), orders=orders)
            for job, image in zip(batch, images, strict=True):
                save_png(image, job.path)
            bar.update(len(batch))
