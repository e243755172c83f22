"""Measures how well a tokenizer reconstructs images it was not trained on.

    python tokenizer/tokenizer_image/reconstruction_eval.py --vq-ckpt vq.pt --data-path images/

Writes `reconstruction.json` and `reconstruction.png` (original | reconstruction pairs).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from dataset.image_folder import ImageDataset, list_images
from runtime.checkpoint import write_atomic
from runtime.config import option, parse
from runtime.distributed import pick_device
from runtime.errors import UserError, run_command
from runtime.logging import get_logger, progress
from tokenizer.tokenizer_image.codebook import CodeCounts
from tokenizer.tokenizer_image.losses import psnr
from tokenizer.tokenizer_image.pictures import save_pairs
from tokenizer.tokenizer_image.vq_model import VQModel, load_vq_model

log = get_logger(__name__)

NUM_PAIRS = 16


@dataclass
class ReconstructionConfig:
    """Evaluate the reconstructions of an image tokenizer."""

    vq_ckpt: str = option(help="tokenizer checkpoint")
    data_path: str = option(help="folder of images, or a jsonl file with image_path on each line")
    output_dir: str = option("results/reconstruction", help="folder for reconstruction.json and .png")
    vq_model: str | None = option(None, help="tokenizer name, where the checkpoint does not say it")
    image_size: int = option(256, help="side of the square images in pixels")
    num_images: int | None = option(None, help="evaluate only the first so many images")
    batch_size: int = option(32, help="images at once")
    inception_ckpt: str | None = option(
        None, help="TorchScript Inception for FID (2048 features); none, no FID"
    )
    device: str = option("auto", help="where to run", choices=("auto", "cpu", "cuda"))


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(ReconstructionConfig, argv)
    model = load_vq_model(config.vq_ckpt, config.vq_model, pick_device(config.device))
    dataset = ImageDataset(
        list_images(config.data_path)[: config.num_images], config.image_size, augment=False
    )
    report, pairs = evaluate(model, dataset, config)
    folder = Path(config.output_dir)
    save_pairs(folder / "reconstruction.png", *pairs)
    text = json.dumps(report, indent=2) + "\n"
    write_atomic(folder / "reconstruction.json", lambda temporary: temporary.write_text(text))
    log.info("%s", {name: report[name] for name in ("psnr", "ssim", "codebook_usage", "fid")})


def evaluate(
    model: VQModel, dataset: ImageDataset, config: ReconstructionConfig
) -> tuple[dict[str, Any], tuple[Tensor, Tensor]]:
    """Reconstructs every image of `dataset`.

    Returns:
      The report: means over images of `psnr` (dB) and `ssim`, `codebook_usage` (share of codes that occur),
      `fid` (None without Inception weights), and the settings; and the first pairs, (n, 3, S, S) in [-1, 1].
    """
    device = next(model.parameters()).device
    counts = CodeCounts(model.config.codebook_size, device)
    fid = load_fid(config.inception_ckpt, device)
    scores: dict[str, list[Tensor]] = {"psnr": [], "ssim": []}
    shown: list[tuple[Tensor, Tensor]] = []
    starts = range(0, len(dataset), config.batch_size)
    for start in progress(starts, desc="reconstructing", unit="batch"):
        samples = [dataset[i, 0] for i in range(start, min(start + config.batch_size, len(dataset)))]
        if problems := [problem for sample in samples for problem in sample.problems]:
            raise UserError(problems[0])
        images = torch.stack([sample.image for sample in samples]).to(device)
        ids = model.encode_ids(images)
        reconstructions = model.decode_ids(ids).clamp(-1, 1)
        counts.add(ids)
        scores["psnr"].append(psnr(reconstructions, images))
        scores["ssim"].append(
            structural_similarity_index_measure(
                reconstructions, images, data_range=(-1.0, 1.0), reduction="none"
            )
        )
        if fid is not None:
            fid.update((images + 1) / 2, real=True)
            fid.update((reconstructions + 1) / 2, real=False)
        if start < NUM_PAIRS:
            shown.append((images.cpu(), reconstructions.cpu()))
    report = {name: round(torch.cat(values).mean().item(), 4) for name, values in scores.items()}
    report["codebook_usage"] = round((counts.counts > 0).float().mean().item(), 4)
    report["fid"] = None if fid is None else round(fid.compute().item(), 4)
    report |= {"num_images": len(dataset), "image_size": config.image_size}
    report |= {"vq_ckpt": config.vq_ckpt, "data_path": config.data_path}
    originals, reconstructed = (torch.cat(side)[:NUM_PAIRS] for side in zip(*shown, strict=True))
    return report, (originals, reconstructed)


class ScriptedInception(nn.Module):
    """The TorchScript Inception of StyleGAN's FID as torchmetrics calls a feature network."""

    num_features = 2048

    def __init__(self, path: str) -> None:
        super().__init__()
        try:
            self.network = torch.jit.load(path, map_location="cpu").eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(
                f"{path}: no TorchScript Inception network: {str(error).splitlines()[0]}"
            ) from None

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images * 255).round(), return_features=True)


def load_fid(path: str | None, device: torch.device) -> nn.Module | None:
    """FID over [0, 1] images with Inception from a local file, or None, which the log says."""
    if path is None:
        log.info("no --inception-ckpt: FID is left out")
        return None
    from torchmetrics.image.fid import FrechetInceptionDistance  # slow to import, rarely needed

    return FrechetInceptionDistance(feature=ScriptedInception(path), normalize=True).to(device)


if __name__ == "__main__":
    run_command(main)
