"""The scores of a folder of reconstructions: the work of evaluation.py."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluations.editing.measure import GENERATED
from evaluations.folders import images_by_name, load_batches
from evaluations.images import load_rgb
from evaluations.report.item_page import write_item_page
from evaluations.tokenizer.flags import TokenizerEvalConfig
from evaluations.tokenizer.measure import Judges, ReconstructionScores
from runtime.distributed import Distributed, distributed
from runtime.errors import UserError
from runtime.logging import progress
from runtime.texts import write_json

_NAMED_AT_MOST = 5


class ImagePair(NamedTuple):
    """A reconstruction, its original, and the path that both have below their folders, without suffix."""

    name: str
    original: Path
    reconstruction: Path


def find_image_pairs(generated_path: str | Path, gt_path: str | Path) -> list[ImagePair]:
    """Pairs the images of two folders by relative path, in natural order.

    Raises:
      UserError: names images that lack a partner, and two that share a name.
    """
    reconstructions, originals = images_by_name(generated_path), images_by_name(gt_path)
    for folder, lacking in (
        (generated_path, originals.keys() - reconstructions.keys()),
        (gt_path, reconstructions.keys() - originals.keys()),
    ):
        if lacking:
            names = ", ".join(sorted(lacking)[:_NAMED_AT_MOST]) + (
                ", …" if len(lacking) > _NAMED_AT_MOST else ""
            )
            raise UserError(f"{folder} lacks {len(lacking)} images that the other folder has: {names}")
    return [ImagePair(name, original, reconstructions[name]) for name, original in originals.items()]


def evaluate_run(config: TokenizerEvalConfig, world: Distributed) -> dict[str, Any]:
    """Scores the reconstructions and writes the three files.

    Returns:
      The content of `evaluation_metrics.json`: means of "psnr" (dB), "ssim" and, where asked for, "lpips";
      "fid"; and "info" with the settings and the weights' hashes.
    """
    pairs = find_image_pairs(config.generated_path, config.gt_path)
    judges = Judges.load(config, world.device)
    scores = ReconstructionScores(judges, world, config.num_workers)
    mine = pairs[world.rank :: world.world_size]
    with (
        ThreadPoolExecutor(max(config.num_workers, 1)) as pool,
        progress(total=len(mine), desc="evaluate", unit="pair", disable=not world.is_main) as bar,
    ):
        for batch in load_batches(mine, _load, config.batch_size, pool):
            scores.add(*zip(*batch, strict=True))
            bar.update(len(batch))
    means, measured = scores.result()
    settings = {key: value for key, value in dataclasses.asdict(config).items() if value is not None}
    result = means | {"info": settings | {"num_images": len(pairs), "weights": judges.describe()}}
    if world.is_main:
        metrics = {found["name"]: found["metrics"] for found in measured}
        _write(config, result, [_item(pair, metrics[pair.name]) for pair in pairs])
    return result


def run(config: TokenizerEvalConfig) -> None:
    """Scores on the ranks that there are, and prints the means."""
    with distributed(config.device) as world:
        result = evaluate_run(config, world)
        if world.is_main:
            numbers = "  ".join(f"{name} {value:.4f}" for name, value in result.items() if name != "info")
            print(f"{result['info']['num_images']} images: {numbers}")


def _load(pair: ImagePair) -> tuple[str, np.ndarray, np.ndarray]:
    return pair.name, load_rgb(pair.original), load_rgb(pair.reconstruction)


def _item(pair: ImagePair, metrics: dict[str, float]) -> dict[str, Any]:
    return {
        "row": GENERATED,
        "protocol": "reconstruction",
        "session": None,
        "turn": None,
        "instruction": pair.name,
        "caption": None,
        "generated": str(pair.reconstruction),
        "target": str(pair.original),
        "source": str(pair.original),
        "metrics": metrics,
    }


def _write(config: TokenizerEvalConfig, result: dict[str, Any], items: list[dict[str, Any]]) -> None:
    folder = Path(config.save_path) if config.save_path else Path(config.generated_path).parent / "scores"
    for name, content in (("evaluation_metrics.json", result), ("evaluation_items.json", items)):
        write_json(folder / name, content, allow_nan=False)
    write_item_page(folder / "evaluation_items.html", items)
