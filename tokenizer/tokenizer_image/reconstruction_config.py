"""The command line of reconstruction_eval.py."""

from __future__ import annotations

from dataclasses import dataclass

from evaluations.tokenizer.flags import JudgeFlags
from runtime.config import REQUIRED, option
from runtime.flags import shared
from runtime.flags.ranges import COUNT, THREADS


@dataclass(frozen=True)
class ReconstructionConfig(JudgeFlags):
    """Evaluate the reconstructions of an image tokenizer."""

    vq_ckpt: str = shared.vq_ckpt(REQUIRED)
    data_path: str = option(help="folder of images, or a jsonl file with image_path on each line")
    output_dir: str = option("results/reconstruction", help="folder for reconstruction.json and .png")
    save_images: bool = option(False, help="write originals/ and reconstructions/ there too")
    vq_model: str | None = shared.vq_model(None)
    image_size: int = shared.image_size()
    num_images: int | None = option(None, within=COUNT, help="evaluate only the first so many images")
    batch_size: int = option(32, within=COUNT, help="images at once")
    num_workers: int = option(2, within=THREADS, help="threads that compare images")
    device: str = shared.device(choices=("auto", "cpu", "cuda"))
