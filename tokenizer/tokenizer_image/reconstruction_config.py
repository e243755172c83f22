"""The command line of reconstruction_eval.py."""

from __future__ import annotations

from dataclasses import dataclass

from evaluations.tokenizer.flags import JudgeFlags
from runtime.config import REQUIRED, option
from runtime.flags import models, shared
from runtime.flags.ranges import COUNT, THREADS


@dataclass(frozen=True)
class ReconstructionConfig(JudgeFlags):
    """Evaluate the reconstructions of an image tokenizer."""

    vq_ckpt: str = models.vq_ckpt(REQUIRED)
    data_path: str = option(help="folder of images, or a jsonl file with image_path on each line")
    output_dir: str = shared.output_dir("results/reconstruction", "folder for reconstruction.json and .png")
    save_images: bool = option(False, help="write originals/ and reconstructions/ there too")
    vq_model: str | None = models.vq_model(None)
    image_size: int = models.image_size()
    num_images: int | None = option(None, within=COUNT, help="evaluate only the first so many images")
    batch_size: int = shared.batch_size(32, "images at once")
    num_workers: int = shared.num_workers(2, "threads that compare images", within=THREADS)
    device: str = shared.device(choices=("auto", "cpu", "cuda", "mps"))
