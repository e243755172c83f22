"""Draws held-out captions of the shapes set and lets the verifier judge the images.

    python scripts/score_drawings.py --vq-ckpt vq.pt --gpt-ckpt t2i.pt --t5-path t5 --cfg-scale 1 \\
        --captions data/shapes/test/t2i.jsonl --output-dir scores/drawings

Writes `drawings.json` (shares of right colours and shapes over all objects, and of images in which everything
is right), `drawings.png` (the first images) and `images/`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from autoregressive.sample.drawing import DrawConfig, DrawJob, draw_jobs
from dataset.images import load_image
from dataset.records import read_t2i_jsonl
from dataset.shapes import Scene
from dataset.shapes_captions import parse_caption
from dataset.shapes_verifier import SceneVerdict, verify_scene
from runtime.config import REQUIRED, option, parse
from runtime.distributed import distributed
from runtime.errors import run_command
from runtime.files import write_atomic
from runtime.pictures import save_picture
from runtime.ranges import COUNT

_IN_PICTURE, _ROW = 32, 8


@dataclass(frozen=True)
class ScoreDrawings(DrawConfig):
    """Draws captions of the shapes set and scores the images."""

    captions: str = option(REQUIRED, help="t2i.jsonl of a shapes test set")
    output_dir: str = option(REQUIRED, help="gets drawings.json, drawings.png and images/")
    num_images: int = option(1000, within=COUNT, help="the first so many captions")


def summarise(verdicts: Sequence[SceneVerdict]) -> dict[str, float]:
    """Shares of right colours and shapes (of objects), right backgrounds and all being right (of images)."""
    return {
        "num_images": len(verdicts),
        "color": float(np.mean([right for verdict in verdicts for right in verdict.color])),
        "shape": float(np.mean([right for verdict in verdicts for right in verdict.shape])),
        "background": float(np.mean([verdict.background for verdict in verdicts])),
        "overall": float(np.mean([verdict.passed for verdict in verdicts])),
    }


def main() -> None:
    config = parse(ScoreDrawings)
    records = read_t2i_jsonl([config.captions])
    texts = [record.text for record in islice(records, config.num_images)]
    scenes = [parse_caption(text) for text in texts]
    output = Path(config.output_dir)
    jobs = [
        DrawJob(text, 10_000 * config.seed + i, output / "images" / f"{i:06d}.png")
        for i, text in enumerate(texts)
    ]
    with distributed(config.device) as ranks:
        draw_jobs(config.load_pipeline(ranks.device), jobs[ranks.rank :: ranks.world_size], config, ranks)
        ranks.barrier()
    if ranks.is_main:
        score([job.path for job in jobs], scenes, output)


def score(paths: Sequence[Path], scenes: Sequence[Scene], output: Path) -> None:
    """Judges the images and writes what was found."""
    images = [np.array(load_image(path)) for path in paths]
    scores = summarise([verify_scene(image, scene) for image, scene in zip(images, scenes, strict=True)])
    first = torch.from_numpy(np.stack(images[:_IN_PICTURE])).permute(0, 3, 1, 2)
    save_picture(to_pil_image(make_grid(first, nrow=_ROW)), output / "drawings.png")
    text = json.dumps(scores, indent=1)
    write_atomic(output / "drawings.json", lambda path: path.write_text(text + "\n"))
    print(text)


if __name__ == "__main__":
    run_command(main)
