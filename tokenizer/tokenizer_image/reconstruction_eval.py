"""Measures how well a tokenizer reconstructs images it was not trained on.

    python tokenizer/tokenizer_image/reconstruction_eval.py --vq-ckpt vq.pt --data-path images/ --fid

Writes `reconstruction.json` and `reconstruction.png` (original | reconstruction pairs); with `--save-images`
also `originals/` and `reconstructions/`, from which evaluations/tokenizer/evaluation.py makes a page of the
worst and best pairs. Under torchrun the ranks share the images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataset.image_folder import ImageDataset, list_images
from evaluations.tokenizer.measure import JudgeFlags, Judges, ReconstructionScores
from runtime.config import option, parse
from runtime.distributed import Distributed, distributed
from runtime.errors import UserError, run_command
from runtime.files import write_atomic
from runtime.logging import get_logger, progress
from runtime.pictures import save_picture
from runtime.ranges import COUNT, SIZE, THREADS
from tokenizer.tokenizer_image.codebook import CodeCounts
from tokenizer.tokenizer_image.pictures import save_pairs
from tokenizer.tokenizer_image.vq_model import VQModel, load_vq_model

log = get_logger(__name__)

NUM_PAIRS = 16


@dataclass(frozen=True)
class ReconstructionConfig(JudgeFlags):
    """Evaluate the reconstructions of an image tokenizer."""

    vq_ckpt: str = option(help="tokenizer checkpoint")
    data_path: str = option(help="folder of images, or a jsonl file with image_path on each line")
    output_dir: str = option("results/reconstruction", help="folder for reconstruction.json and .png")
    save_images: bool = option(False, help="write originals/ and reconstructions/ there too")
    vq_model: str | None = option(None, help="tokenizer name, where the checkpoint does not say it")
    image_size: int = option(256, within=SIZE, help="side of the square images in pixels")
    num_images: int | None = option(None, within=COUNT, help="evaluate only the first so many images")
    batch_size: int = option(32, within=COUNT, help="images at once")
    num_workers: int = option(2, within=THREADS, help="threads that compare images")
    device: str = option("auto", help="where to run", choices=("auto", "cpu", "cuda"))


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(ReconstructionConfig, argv)
    with distributed(config.device) as world:
        judges = Judges.load(config, world.device)
        model = load_vq_model(config.vq_ckpt, config.vq_model, world.device)
        paths = list_images(config.data_path)[: config.num_images]
        report, shown = evaluate(
            model, ImageDataset(paths, config.image_size, augment=False), config, judges, world
        )
        if not world.is_main:
            return
        folder = Path(config.output_dir)
        sides = (torch.cat(side)[:NUM_PAIRS] for side in zip(*shown, strict=True))
        save_pairs(folder / "reconstruction.png", *sides)
        text = json.dumps(report, indent=2) + "\n"
        write_atomic(folder / "reconstruction.json", lambda temporary: temporary.write_text(text))
        numbers = ("psnr", "ssim", "lpips", "codebook_usage", "fid")
        log.info("%s", {name: report[name] for name in numbers if report[name] is not None})


def evaluate(
    model: VQModel, dataset: ImageDataset, config: ReconstructionConfig, judges: Judges, world: Distributed
) -> tuple[dict[str, Any], list[tuple[Tensor, Tensor]]]:
    """Reconstructs every image of `dataset`; images are compared as the 8-bit pictures they are saved as.

    Returns:
      The report: means over images of `psnr` (dB), `ssim` and `lpips`, `codebook_usage` (share of codes that
      occur) and `fid` (None where not asked for), the settings and the weights; and some of this rank's
      batches, original and reconstructed, (B, 3, S, S) in [-1, 1].
    """
    counts = CodeCounts(model.config.codebook_size, world.device)
    scores = ReconstructionScores(judges, world, config.num_workers)
    shown: list[tuple[Tensor, Tensor]] = []
    starts = range(0, len(dataset), config.batch_size)[world.rank :: world.world_size]
    for start in progress(starts, desc="reconstructing", unit="batch", disable=not world.is_main):
        indices = range(start, min(start + config.batch_size, len(dataset)))
        samples = [dataset[index, 0] for index in indices]
        if problems := [problem for sample in samples for problem in sample.problems]:
            raise UserError(problems[0])
        images = torch.stack([sample.image for sample in samples]).to(world.device)
        ids = model.encode_ids(images)
        reconstructions = model.decode_ids(ids).clamp(-1, 1)
        counts.add(ids)
        names = [f"{index:06d}_{dataset.paths[index].stem}" for index in indices]
        sides = {"originals": to_pixels(images), "reconstructions": to_pixels(reconstructions)}
        scores.add(names, *sides.values())
        if config.save_images:
            for side, pictures in sides.items():
                for name, picture in zip(names, pictures, strict=True):
                    save_picture(Image.fromarray(picture), Path(config.output_dir) / side / f"{name}.png")
        if len(shown) * config.batch_size < NUM_PAIRS:
            shown.append((images.cpu(), reconstructions.cpu()))
    means, _ = scores.result()
    used = (world.all_reduce_sum(counts.counts) > 0).float().mean().item()
    numbers = {"psnr": None, "ssim": None, "lpips": None, "fid": None} | means | {"codebook_usage": used}
    report = {name: None if value is None else round(value, 4) for name, value in numbers.items()}
    report |= {"num_images": len(dataset), "image_size": config.image_size, "weights": judges.describe()}
    report |= {"vq_ckpt": config.vq_ckpt, "data_path": config.data_path}
    return report, shown


def to_pixels(images: Tensor) -> list[np.ndarray]:
    """(B, 3, H, W) in [-1, 1] to a list of (H, W, 3) uint8."""
    pixels = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return list(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())


if __name__ == "__main__":
    run_command(main)
