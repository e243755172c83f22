"""Drawings of held-out captions, judged by the verifier: the work of score_drawings.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from autoregressive.sample.drawing import DrawJob, draw_jobs
from autoregressive.sample.loading import load_pipeline
from dataset.records.images import load_image
from dataset.records.records import read_t2i_jsonl
from dataset.shapes.captions import parse_caption
from dataset.shapes.scenes import Scene
from dataset.shapes.verifier import SceneVerdict, verify_scene
from runtime.distributed import distributed
from runtime.files import write_atomic
from runtime.pictures import save_picture
from scripts.checks.drawings_config import ScoreDrawings

_IN_PICTURE, _ROW = 32, 8


def summarise(verdicts: Sequence[SceneVerdict]) -> dict[str, float]:
    """Shares of right colours and shapes (of objects), right backgrounds and all being right (of images)."""
    return {
        "num_images": len(verdicts),
        "color": float(np.mean([right for verdict in verdicts for right in verdict.color])),
        "shape": float(np.mean([right for verdict in verdicts for right in verdict.shape])),
        "background": float(np.mean([verdict.background for verdict in verdicts])),
        "overall": float(np.mean([verdict.passed for verdict in verdicts])),
    }


def draw_and_judge(config: ScoreDrawings) -> None:
    """Draws the captions and judges the images."""
    records = read_t2i_jsonl([config.captions])
    texts = [record.text for record in islice(records, config.num_images)]
    scenes = [parse_caption(text) for text in texts]
    output = Path(config.output_dir)
    jobs = [
        DrawJob(text, 10_000 * config.seed + i, output / "images" / f"{i:06d}.png")
        for i, text in enumerate(texts)
    ]
    with distributed(config.device) as ranks:
        draw_jobs(load_pipeline(config, ranks.device), jobs, config, ranks)
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
