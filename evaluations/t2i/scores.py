"""The scores of generated images and what is written of them: the work of evaluation.py."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

from evaluations.editing.measure import GENERATED
from evaluations.folders import list_images
from evaluations.metrics.encoders import ClipEncoder
from evaluations.metrics.fid import (
    FolderSettings,
    ScriptedInception,
    folder_gaussian,
    frechet_distance,
    load_inception,
)
from evaluations.report.item_page import write_item_page
from evaluations.t2i.clip_score import clip_scores, load_clip
from evaluations.t2i.flags import COCO, T2IEvalConfig
from evaluations.t2i.pictures import cut_picture, list_generated, read_captions
from runtime.distributed import Distributed, distributed
from runtime.files import file_sha256
from runtime.logging import get_logger
from runtime.texts import write_json, write_text

log = get_logger(__name__)

_FEW_IMAGES = 10_000


def evaluate_run(config: T2IEvalConfig, world: Distributed) -> dict[str, Any]:
    """Scores a folder of generated images and writes the scores into it.

    Returns:
      The content of `score.json`: "clip_score" and "fid" (None where not asked for), and "info".
    Raises:
      UserError: for missing weights, unreadable files, and images that captions.txt has no line for.
    """
    config.check()
    fakes = list_generated(config.fake_dir)
    captions = read_captions(config.fake_dir, fakes) if config.scores_captions else []
    # References and weights are looked for before anything is computed.
    references = list_images(config.ref_path) if config.fid else []
    inception = load_inception(config.inception_ckpt, "--no-fid") if config.fid else None
    clip = (
        load_clip(config.clip_model4eval, config.clip_ckpt, world.device) if config.scores_captions else None
    )

    scores = _score_captions(config, clip, fakes, captions, world) if clip else []
    fid = _measure_fid(config, inception, fakes, references, world) if inception else None
    networks = {"clip": clip, "inception": inception}
    info = {key: value for key, value in dataclasses.asdict(config).items() if value is not None} | {
        "prepared": config.prepared,
        "num_generated": len(fakes),
        "num_references": len(references),
        "num_clip_pairs": len(scores),
        "weights": {name: network.describe() for name, network in networks.items() if network},
    }
    if clip:
        info["captions_sha256"] = file_sha256(Path(config.fake_dir) / "captions.txt")
    mean = math.fsum(scores) / len(scores) if scores else None
    result = {"clip_score": mean, "fid": fid, "info": info}
    if world.is_main:
        _write(config, result, [_item(*found) for found in zip(fakes, captions, scores, strict=False)])
    return result


def format_scores(result: dict[str, Any]) -> str:
    """The lines of the published score.txt, of what was measured."""
    lines = []
    if result["clip_score"] is not None:
        lines.append(f"CLIP score: {result['clip_score']}")
    if result["fid"] is not None:
        lines.append(f"FID_{result['info']['eval_res']}px: {result['fid']}")
    return "\n".join(lines)


def run(config: T2IEvalConfig) -> None:
    """Scores on the ranks that there are, and prints the scores."""
    with distributed(config.device) as world:
        result = evaluate_run(config, world)
        if world.is_main:
            print(format_scores(result))


def _score_captions(
    config: T2IEvalConfig, clip: ClipEncoder, fakes: list[Path], captions: list[str], world: Distributed
) -> list[float]:
    chosen = slice(config.how_many)
    return clip_scores(
        clip,
        fakes[chosen],
        captions[chosen],
        world,
        cut=partial(cut_picture, side=config.eval_res, bottom=config.eval_bottom),
        batch_size=config.batch_size,
        num_workers=config.num_workers,
    )


def _measure_fid(
    config: T2IEvalConfig,
    inception: ScriptedInception,
    fakes: list[Path],
    references: list[Path],
    world: Distributed,
) -> float:
    if world.is_main and min(len(fakes), len(references)) < _FEW_IMAGES:
        log.warning(
            "FID of %d images against %d: it grows as images get fewer; compare it only at equal numbers "
            "(published figures: 30,000)", len(fakes), len(references)
        )  # fmt: skip
    settings = FolderSettings(
        prepare=partial(cut_picture, side=config.eval_res, bottom=config.eval_bottom),
        prepared=config.prepared,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
    )
    cached = dataclasses.replace(settings, cache_dir=config.fid_cache)
    reference = folder_gaussian(references, inception, world, cached)
    return frechet_distance(folder_gaussian(fakes, inception, world, settings), reference)


def _item(path: Path, caption: str, score: float) -> dict[str, Any]:
    return {
        "row": GENERATED,
        "protocol": COCO,
        "session": None,
        "turn": None,
        "instruction": caption,
        "caption": None,
        "generated": str(path),
        "target": None,
        "source": None,
        "metrics": {"clip-t": score},
    }


def _write(config: T2IEvalConfig, result: dict[str, Any], items: list[dict[str, Any]]) -> None:
    folder = Path(config.fake_dir)
    write_text(folder / "score.txt", format_scores(result) + "\n")
    if items:
        write_json(folder / "score_items.json", items, allow_nan=False)
        write_item_page(folder / "score_items.html", items)
    else:  # those of another time do not belong to these scores
        for name in ("score_items.json", "score_items.html"):
            (folder / name).unlink(missing_ok=True)
    write_json(folder / "score.json", result, allow_nan=False)
