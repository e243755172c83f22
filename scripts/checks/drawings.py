"""Drawings of held-out captions, judged by the verifier: the work of score_drawings.py."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from autoregressive.sample.drawing import DrawJob, draw_jobs
from autoregressive.sample.loading import load_pipeline
from dataset.emoji.scenes import EmojiScene
from dataset.emoji.verifier import EmojiVerifier, find_catalogue
from dataset.records.images import load_image
from dataset.records.t2i_records import read_t2i_jsonl
from dataset.shapes.captions import parse_caption
from dataset.shapes.verifier import SceneVerdict, verify_scene
from runtime.distributed import distributed
from runtime.errors import UserError
from runtime.pictures import save_picture
from runtime.texts import read_json, write_json
from scripts.checks.drawings_config import ScoreDrawings

_IN_PICTURE, _ROW = 32, 8
Judge = Callable[[Sequence[np.ndarray]], dict[str, Any]]
"""Images -> the scores of them all."""


def summarise(verdicts: Sequence[SceneVerdict]) -> dict[str, float]:
    """Shares of right colours and shapes (of objects), right backgrounds and all being right (of images)."""
    return {
        "num_images": len(verdicts),
        "color": float(np.mean([right for verdict in verdicts for right in verdict.color])),
        "shape": float(np.mean([right for verdict in verdicts for right in verdict.shape])),
        "background": float(np.mean([verdict.background for verdict in verdicts])),
        "overall": float(np.mean([verdict.passed for verdict in verdicts])),
    }


def summarise_emoji(groups: Sequence[str], verdicts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of all and by group: shares of right emoji and of all being right; what others were mistaken for."""

    def shares(chosen: Sequence[dict[str, Any]]) -> dict[str, Any]:
        relations = Counter(relation for verdict in chosen for relation in verdict["relations"])
        return {
            "num_images": len(chosen),
            "sprite": float(np.mean([right for verdict in chosen for right in verdict["sprites"]])),
            "overall": float(np.mean([verdict["passed"] for verdict in chosen])),
            "confusion": dict(relations.most_common()),
        }

    by_group = {
        group: shares([verdict for name, verdict in zip(groups, verdicts, strict=True) if name == group])
        for group in dict.fromkeys(groups)
    }
    return shares(verdicts) | {"by_group": by_group}


def draw_and_judge(config: ScoreDrawings) -> None:
    """Draws the captions and judges the images."""
    records = read_t2i_jsonl([config.captions])
    texts = [record.text for record in islice(records, config.num_images)]
    judge = _shapes_judge(texts) if config.emoji_scenes is None else emoji_judge(config.emoji_scenes, texts)
    output = Path(config.output_dir)
    jobs = [
        DrawJob(text, 10_000 * config.seed + i, output / "images" / f"{i:06d}.png")
        for i, text in enumerate(texts)
    ]
    with distributed(config.device) as ranks:
        draw_jobs(load_pipeline(config, ranks.device), jobs, config, ranks)
        ranks.barrier()
    if ranks.is_main:
        score([job.path for job in jobs], judge, output)


def _shapes_judge(texts: Sequence[str]) -> Judge:
    scenes = [parse_caption(text) for text in texts]
    return lambda images: summarise([verify_scene(i, scene) for i, scene in zip(images, scenes, strict=True)])


def emoji_judge(path: str, texts: Sequence[str]) -> Judge:
    """Judges drawings of captions of the emoji set.

    Args:
      path: scenes.json, which the set's sprites are near.
      texts: the captions, which must be those of the scenes, in order.
    Raises:
      UserError: another file, or other captions.
    """
    items = read_json(Path(path), list)[: len(texts)]
    try:
        scenes, groups = [EmojiScene.from_dict(i["scene"]) for i in items], [i["group"] for i in items]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not the scenes that prepare_emoji.py writes ({error!r})") from None
    if [scene.caption() for scene in scenes] != list(texts):
        raise UserError(f"{path}: its scenes are not those of --captions; both are files of one folder")
    verifier = EmojiVerifier(find_catalogue(path))
    return lambda images: summarise_emoji(
        groups, [verifier.verify_scene(image, scene) for image, scene in zip(images, scenes, strict=True)]
    )


def score(paths: Sequence[Path], judge: Judge, output: Path) -> None:
    """Judges the images and writes what was found."""
    images = [np.array(load_image(path)) for path in paths]
    scores = judge(images)
    first = torch.from_numpy(np.stack(images[:_IN_PICTURE])).permute(0, 3, 1, 2)
    save_picture(to_pil_image(make_grid(first, nrow=_ROW)), output / "drawings.png")
    write_json(output / "drawings.json", scores)
    print(json.dumps(scores, indent=1))
