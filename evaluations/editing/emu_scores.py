"""Scores of results on the Emu Edit test set: the work of emuedit_eval.py."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from dataset.testsets.emu_pairs import SUBSETS, check_sources, find_emu_pairs, load_emu_list
from dataset.testsets.listed import Session
from dataset.testsets.pairs import FINAL_TURN
from evaluations.editing.engine import Evaluation, Item, evaluate, write_results
from evaluations.editing.flags import EmuEvalConfig
from evaluations.editing.measure import GENERATED, Run
from evaluations.editing.registry import EMU_METRICS, load_metric_networks, select_metrics
from evaluations.editing.tables import format_tables
from runtime.distributed import Distributed, distributed
from runtime.files import without_mac_metadata
from runtime.texts import write_json

# File -> the number that it holds by idx; the published evaluator writes both.
_BY_IDX = {"clip_t_score_by_idx.json": "clip-out", "clip_dir_score_by_idx.json": "clip-dir"}


def check(config: EmuEvalConfig) -> None:
    """Checks all that is known before there are images to score, the weights of the metrics included.

    Raises:
      UserError: what `evaluate_run` would raise.
    """
    check_sources(load_emu_list(config.caption_path), config.gt_path)
    metrics = select_metrics(config.metric, EMU_METRICS, {"caption"})
    load_metric_networks(metrics, EMU_METRICS, config)


def evaluate_run(config: EmuEvalConfig, world: Distributed | None = None) -> dict[str, Any]:
    """Scores results and writes `evaluation_metrics.json` and its company to the save path.

    Args:
      config: what the command line takes.
      world: the ranks that share the work, and their devices; None = this process alone.
    Returns:
      The content of `evaluation_metrics.json`: {"final_turn": {"l1", "l2", "clip-i", "dino", "clip-out",
      "clip-dir"}} for the results, "copy_source" and (with a ceiling folder) "tokenizer_ceiling" -> the same,
      (with several seeds) "interval95" -> half widths and "seeds" -> the scores of each, and "info". A number
      that no pair defines is None, such as clip-dir of the copied source, which moves nowhere.
    Raises:
      UserError: for missing, extra or unreadable files, unknown metrics, weights that are missing or do not
        fit, and non-finite numbers.
    """
    sessions = load_emu_list(config.caption_path)
    metrics = select_metrics(config.metric, EMU_METRICS, {"caption"})
    ceiling = Path(config.ceiling_path) if config.ceiling_path else None
    folder = config.save_folder
    runs = [
        Run(find_emu_pairs(sessions, generated, config.gt_path), ceiling_path=ceiling, seed=seed)
        for seed, generated in enumerate(config.folders)
    ]
    info = _describe_data(config, sessions)
    result, items = evaluate(config, Evaluation(runs, metrics, EMU_METRICS, info), world)
    if world is None or world.is_main:
        _write_scores_by_idx(folder, items)
        write_results(folder, result, items, format_tables(result))
    return result


def run(config: EmuEvalConfig) -> None:
    """Scores on the ranks that there are, and prints the table."""
    with distributed(config.device) as world:
        result = evaluate_run(config, world)
        if world.is_main:
            print(format_tables(result))


def _describe_data(config: EmuEvalConfig, sessions: list[Session]) -> dict[str, Any]:
    subset = SUBSETS.get(len(sessions), "another selection than the 3,589 or the 2,834 usually reported")
    sources = {path.name for path in without_mac_metadata(Path(config.gt_path).glob("*_gt.png"))}
    return {
        "data_set": f"{len(sessions)} items ({subset})",
        "num_items": len(sessions),
        "subset": subset,
        "num_gt_not_scored": len(sources - {session.turns[0].input for session in sessions}),
        "num_pairs": {FINAL_TURN: len(sessions)},
    }


def _write_scores_by_idx(folder: Path, items: list[Item]) -> None:
    """The published side files: idx -> score, over several seeds their mean; null where it is undefined."""
    generated = [item for item in items if item["row"] == GENERATED]
    for file, key in _BY_IDX.items():
        by_idx: dict[str, list[float | None]] = {}
        for item in generated:
            if key in item["metrics"]:
                by_idx.setdefault(item["session"], []).append(item["metrics"][key])
        if by_idx:
            write_json(folder / file, {idx: _mean(values) for idx, values in by_idx.items()}, allow_nan=False)
        else:
            (folder / file).unlink(missing_ok=True)  # of other images, or of another time


def _mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None
