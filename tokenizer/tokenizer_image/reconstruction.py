"""Reconstructions of images and their scores: the work of reconstruction_eval.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dataset.image_folder import ImageDataset, list_images
from evaluations.tokenizer.measure import Judges, ReconstructionScores
from runtime.distributed import Distributed, distributed
from runtime.errors import UserError
from runtime.logging import get_logger, progress
from runtime.pictures import save_picture, to_pixels
from runtime.texts import write_json
from tokenizer.tokenizer_image.codebook import CodeCounts
from tokenizer.tokenizer_image.pictures import save_pairs
from tokenizer.tokenizer_image.reconstruction_config import ReconstructionConfig
from tokenizer.tokenizer_image.vq_model import VQModel, load_vq_model

log = get_logger(__name__)

NUM_PAIRS = 16


def run(config: ReconstructionConfig) -> None:
    """Scores on the ranks that there are; writes the report and the pictures."""
    with distributed(config.device) as ranks:
        judges = Judges.load(config, ranks.device)
        model = load_vq_model(config.vq_ckpt, config.vq_model, ranks.device)
        paths = list_images(config.data_path)[: config.num_images]
        report, shown = evaluate(
            model, ImageDataset(paths, config.image_size, augment=False), config, judges, ranks
        )
        if not ranks.is_main:
            return
        folder = Path(config.output_dir)
        sides = (torch.cat(side)[:NUM_PAIRS] for side in zip(*shown, strict=True))
        save_pairs(folder / "reconstruction.png", *sides)
        write_json(folder / "reconstruction.json", report)
        numbers = ("psnr", "ssim", "lpips", "codebook_usage", "fid")
        log.info("%s", {name: report[name] for name in numbers if report[name] is not None})


def evaluate(
    model: VQModel, dataset: ImageDataset, config: ReconstructionConfig, judges: Judges, ranks: Distributed
) -> tuple[dict[str, Any], list[tuple[Tensor, Tensor]]]:
    """Reconstructs every image of `dataset`; images are compared as the 8-bit pictures they are saved as.

    Returns:
      The report: means over images of `psnr` (dB), `ssim` and `lpips`, `codebook_usage` (share of codes that
      occur) and `fid` (None where not asked for), the settings and the weights; and some of this rank's
      batches, original and reconstructed, (B, 3, S, S) in [-1, 1].
    """
    counts = CodeCounts(model.config.codebook_size, ranks.device)
    scores = ReconstructionScores(judges, ranks, config.num_workers)
    shown: list[tuple[Tensor, Tensor]] = []
    starts = range(0, len(dataset), config.batch_size)[ranks.rank :: ranks.world_size]
    for start in progress(starts, desc="reconstructing", unit="batch", disable=not ranks.is_main):
        indices = range(start, min(start + config.batch_size, len(dataset)))
        samples = [dataset[index, 0] for index in indices]
        if problems := [problem for sample in samples for problem in sample.problems]:
            raise UserError(problems[0])
        images = torch.stack([sample.image for sample in samples]).to(ranks.device)
        ids = model.encode_ids(images)
        reconstructions = model.decode_ids(ids).clamp(-1, 1)
        counts.add(ids)
        names = [f"{index:06d}_{dataset.paths[index].stem}" for index in indices]
        sides = {"originals": [*to_pixels(images)], "reconstructions": [*to_pixels(reconstructions)]}
        scores.add(names, *sides.values())
        if config.save_images:
            for side, pictures in sides.items():
                for name, picture in zip(names, pictures, strict=True):
                    save_picture(Image.fromarray(picture), Path(config.output_dir) / side / f"{name}.png")
        if len(shown) * config.batch_size < NUM_PAIRS:
            shown.append((images.cpu(), reconstructions.cpu()))
    means, _ = scores.result()
    used = (ranks.all_reduce_sum(counts.counts) > 0).float().mean().item()
    numbers = {"psnr": None, "ssim": None, "lpips": None, "fid": None} | means | {"codebook_usage": used}
    report = {name: None if value is None else round(value, 4) for name, value in numbers.items()}
    report |= {"num_images": len(dataset), "image_size": config.image_size, "weights": judges.describe()}
    report |= {"vq_ckpt": config.vq_ckpt, "data_path": config.data_path}
    return report, shown
