"""Chooses how `--mask auto` gets from scores to cells: a sweep over settings on a validation set.

    python dataset/prepare_shapes.py --output-dir data/shapes_val --seed 1 --num-train 1 --num-test 300
    python scripts/calibrate_auto_mask.py --vq-ckpt vq.pt --gpt-ckpt nep.pt --t5-path t5 --mask-rule exact \\
        --magicbrush-path data/shapes_val/test --output auto_mask.json
    python autoregressive/sample/sample_magicbrush.py ... --auto-mask --auto-mask-settings auto_mask.json

The validation set is in MagicBrush's format and must not be the test set, or the choice would flatter the
result: of the shapes set, one made with another --seed; of MagicBrush, its dev split. Each edit is scored
once, all settings are tried on its scores; they are judged by the mean intersection over union with the cells
of the true masks. Of settings that do equally well the first is taken: the flags' order is an order of
preference.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from autoregressive.editing.auto_mask import AutoMaskSettings, region_iou
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sample.common import SampleConfig
from dataset.choices import RULES
from dataset.edit_masks import pool_edit_mask
from dataset.images import load_image, load_magicbrush_mask
from dataset.magicbrush import Turn, iterate_turns, read_sessions
from runtime.config import REQUIRED, option, parse
from runtime.distributed import distributed
from runtime.errors import UserError, run_command
from runtime.files import write_atomic
from runtime.logging import get_logger, progress
from runtime.ranges import COUNT_OR_NONE, SHARE, WEIGHT

log = get_logger(__name__)
_SHOWN = 10  # rows of the printed table


@dataclass(frozen=True)
class CalibrateAutoMask(SampleConfig):
    """Chooses the settings of --mask auto on a validation set; the flags of the draws have no effect."""

    magicbrush_path: str = option(REQUIRED, help="validation set: edit_sessions.json and images/")
    output: str = option("auto_mask.json", help="where the chosen settings and the whole table go")
    mask_rule: str = option("published", help="true pixel mask to cells", choices=RULES)
    num_edits: int = option(0, within=COUNT_OR_NONE, help="use the first of the edits only; 0 for all")
    thresholds: list[float] = option(
        [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5], within=SHARE, help="shares to try"
    )
    smoothings: list[float] = option(
        [0, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5], within=WEIGHT, help="standard deviations in cells to try"
    )
    growths: list[int] = option([0, 1, 2, 3], within=COUNT_OR_NONE, help="cells to try")

    def grid_of_settings(self) -> list[AutoMaskSettings]:
        """Every combination of the values to try."""
        values = product(self.thresholds, self.smoothings, self.growths)
        return [AutoMaskSettings(*combination) for combination in values]


def score_edits(
    pipeline: EditingPipeline, turns: list[Turn], mask_rule: str, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Scores and true cells of each edit: (B, N) float32 and (B, N) bool."""
    scores, true = [], []
    with progress(total=len(turns), desc="locating", unit="edit") as bar:
        for start in range(0, len(turns), batch_size):
            batch = turns[start : start + batch_size]
            codes = pipeline.encode([load_image(turn.input_path) for turn in batch])
            text, text_valid = pipeline.encode_texts([turn.instruction for turn in batch])
            scores.append(pipeline.locate(codes, text, text_valid))
            masks = [load_magicbrush_mask(turn.mask_path)[None] for turn in batch]
            true += [pool_edit_mask(mask, pipeline.grid, mask_rule) for mask in masks]
            bar.update(len(batch))
    return torch.cat(scores), torch.stack(true)


def sweep(scores: Tensor, true: Tensor, grid: int, settings: list[AutoMaskSettings]) -> list[dict]:
    """The settings with what they reach, best first.

    Args:
      scores, true: (B, N), as `score_edits` gives them.
      grid: cells per side.
    Returns:
      Of each {"threshold", "smoothing", "growth", "iou": mean over edits, "cells": mean number}.
    """
    rows = []
    for tried in settings:
        found = tried.region(scores, grid)
        iou = region_iou(found, true).mean().item()
        rows.append(tried.to_dict() | {"iou": iou, "cells": found.sum(1).float().mean().item()})
    return sorted(rows, key=lambda row: -row["iou"])


def main() -> None:
    config = parse(CalibrateAutoMask)
    turns = list(iterate_turns(read_sessions(config.magicbrush_path)))
    turns = turns[: config.num_edits or None]
    if not turns:
        raise UserError(f"{config.magicbrush_path} holds no edit")
    with distributed(config.device) as ranks:
        pipeline = config.load_pipeline(ranks.device)
        scores, true = score_edits(pipeline, turns, config.mask_rule, config.batch_size)
    table = sweep(scores, true, pipeline.grid, config.grid_of_settings())
    names = list(AutoMaskSettings().to_dict())
    log.info("%d edits, %.1f true cells each", len(turns), true.sum(1).float().mean())
    log.info("%s", "".join(f"{name:>11}" for name in table[0]))
    for row in table[:_SHOWN]:
        log.info("%s", "".join(f"{value:11.3g}" for value in row.values()))
    all_tried = (config.thresholds, config.smoothings, config.growths)
    for name, tried in zip(names, all_tried, strict=True):
        if table[0][name] == max(tried):
            log.warning("%s %g is the highest that was tried: try higher ones too", name, table[0][name])
    content = {
        "settings": {name: table[0][name] for name in names},
        "iou": table[0]["iou"],
        "edits": len(turns),
        "mask_rule": config.mask_rule,
        "validation_set": config.magicbrush_path,
        "table": table,
    }
    text = json.dumps(content, indent=1)
    write_atomic(Path(config.output), lambda temporary: temporary.write_text(text))
    log.info("%s written", config.output)


if __name__ == "__main__":
    run_command(main)
