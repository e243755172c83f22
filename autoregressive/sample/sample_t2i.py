"""Draws images from texts.

python autoregressive/sample/sample_t2i.py --vq-ckpt vq.pt --gpt-ckpt t2i.pt --t5-path t5 \
    --prompts "a red circle at the top left, white background" --output-dir samples
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from autoregressive.layout import random_orders
from autoregressive.sample.common import SampleConfig
from dataset.images import save_png
from runtime.config import option, parse
from runtime.distributed import distributed
from runtime.errors import UserError, run_command
from runtime.logging import get_logger, progress

log = get_logger(__name__)


@dataclass(frozen=True)
class SampleT2I(SampleConfig):
    """Draws images from texts (--prompts, or --prompt-file with one a line)."""

    prompts: list[str] | None = option(None, help="texts", aliases=["prompt"])
    prompt_file: str | None = option(None, help="file with one text a line")
    output_dir: str = option("samples", help="gets 0000.png, 0001.png, …")
    order: str = option("raster", help="in which the cells are drawn", choices=["raster", "random"])


def read_prompts(config: SampleT2I) -> list[str]:
    prompts = list(config.prompts or [])
    if config.prompt_file is not None:
        path = Path(config.prompt_file)
        if not path.is_file():
            raise UserError(f"--prompt-file {path} does not exist")
        prompts += [line for line in path.read_text().splitlines() if line.strip()]
    if not prompts:
        raise UserError("give texts with --prompts or --prompt-file")
    return prompts


def main() -> None:
    config = parse(SampleT2I)
    prompts = read_prompts(config)
    with distributed(config.device) as ranks:
        pipeline = config.load_pipeline(ranks.device)
        num_cells = pipeline.grid**2
        mine = range(ranks.rank, len(prompts), ranks.world_size)
        with progress(total=len(mine), desc="drawing", unit="image", disable=not ranks.is_main) as bar:
            for start in range(0, len(mine), config.batch_size):
                numbers = mine[start : start + config.batch_size]
                seeds = [config.seed + number for number in numbers]
                orders = torch.arange(num_cells).expand(len(seeds), -1)
                if config.order == "random":
                    orders = random_orders(seeds, num_cells)
                texts = [prompts[number] for number in numbers]
                images = pipeline.draw(texts, seeds=seeds, sampling=config.sampling(), orders=orders)
                for number, image in zip(numbers, images, strict=True):
                    save_png(image, Path(config.output_dir) / f"{number:04d}.png")
                bar.update(len(numbers))
    log.info("%d images in %s", len(prompts), config.output_dir)


if __name__ == "__main__":
    run_command(main)
