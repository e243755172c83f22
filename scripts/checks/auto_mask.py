"""The choice of the settings of `--mask auto`: the work of calibrate_auto_mask.py."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from autoregressive.editing.auto_mask import region_iou
from autoregressive.editing.auto_mask_settings import AutoMaskSettings
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sample.loading import load_pipeline, require_marked
from dataset.edit_masks import pool_edit_mask
from dataset.records.images import load_image
from dataset.records.masks import MAGICBRUSH_SPARE, load_magicbrush_mask, require_shape
from dataset.testsets.magicbrush import Turn, iterate_turns, read_sessions
from runtime.distributed import distributed
from runtime.errors import UserError
from runtime.logging import get_logger, progress
from runtime.texts import write_json
from scripts.checks.auto_mask_config import CalibrateAutoMask

log = get_logger(__name__)
_SHOWN = 10  # rows of the printed table


def score_edits(
    pipeline: EditingPipeline, turns: list[Turn], mask_rule: str, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Scores and true cells of each edit: (B, N) float32 and (B, N) bool."""
    scores, true = [], []
    with progress(total=len(turns), desc="locating", unit="edit") as bar:
        for start in range(0, len(turns), batch_size):
            batch = turns[start : start + batch_size]
            images = [load_image(turn.input_path) for turn in batch]
            codes = pipeline.encode(images)
            text, text_valid = pipeline.encode_texts([turn.instruction for turn in batch])
            scores.append(pipeline.locate(codes, text, text_valid))
            for turn, image in zip(batch, images, strict=True):
                mask = load_magicbrush_mask(turn.mask_path)
                require_shape(mask, image.size, str(turn.mask_path), MAGICBRUSH_SPARE)
                require_marked(mask.numpy(), turn.mask_path)
                true.append(pool_edit_mask(mask[None], pipeline.grid, mask_rule))
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


def calibrate(config: CalibrateAutoMask) -> None:
    """Tries all settings on the validation set and writes the best ones."""
    turns = list(iterate_turns(read_sessions(config.magicbrush_path)))
    turns = turns[: config.num_edits or None]
    if not turns:
        raise UserError(f"{config.magicbrush_path} holds no edit")
    with distributed(config.device) as ranks:
        pipeline = load_pipeline(config, ranks.device)
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
    write_json(Path(config.output), content)
    log.info("%s written", config.output)
