"""Scores of results on PIE-Bench, BrushBench and EditBench: the work of pie_eval.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataset.testsets.pairs import ALL_TURN
from dataset.testsets.pie_bench import EDIT_TYPES
from dataset.testsets.region_sets import (
    BRUSH_BENCH,
    PIE_BENCH,
    Listing,
    find_region_pairs,
    load_region_set,
    load_scored_region,
)
from evaluations.editing.engine import Evaluation, Item, evaluate, write_results
from evaluations.editing.flags import PieEvalConfig
from evaluations.editing.measure import GENERATED, Run
from evaluations.editing.pie_metrics import BRUSH_METRICS, BRUSH_NOT_COMPUTED, PIE_METRICS
from evaluations.editing.registry import select_metrics
from evaluations.editing.tables import align, format_number, format_tables
from evaluations.metrics.formulas import mean_over_pairs
from runtime.distributed import Distributed, distributed

# What a set's published evaluator measures, and which of its numbers are not measured here, and why.
_METRICS = {PIE_BENCH: PIE_METRICS, BRUSH_BENCH: BRUSH_METRICS}
_NOT_COMPUTED = {PIE_BENCH: {}, BRUSH_BENCH: BRUSH_NOT_COMPUTED}


def evaluate_run(config: PieEvalConfig, world: Distributed | None = None) -> dict[str, Any]:
    """Scores results and writes `evaluation_metrics.json` and its company to the save path.

    Args:
      config: what the command line takes.
      world: the ranks that share the work, and their devices; None = this process alone.
    Returns:
      The content of `evaluation_metrics.json`: {"all_turn": {"structure_distance": ...}}, "copy_source" and
      (with a ceiling folder) "tokenizer_ceiling" -> the same, "by_type" -> edit type -> means (of a set that
      has types), "info".
    Raises:
      UserError: for missing, extra or unreadable files, unknown metrics, weights that are missing or do not
        fit, and non-finite numbers.
    """
    kind, sessions, listing = load_region_set(config.pie_path)
    table = _METRICS[kind]
    metrics = select_metrics(config.metric or ",".join(table), table, {"region", "caption"})
    ceiling = Path(config.ceiling_path) if config.ceiling_path else None
    regions = {
        session.id: load_scored_region(
            kind, config.pie_path, session, listing[session.id].get("marks_nothing", False)
        )
        for session in sessions
    }
    runs = [
        Run(
            find_region_pairs(sessions, listing, generated, config.pie_path),
            regions=regions,
            ceiling_path=ceiling,
            seed=seed,
        )
        for seed, generated in enumerate(config.folders)
    ]
    masks = sorted({item["mask_key"] for item in listing.values() if "mask_key" in item})
    info = {
        "data_set": ", ".join([kind.describe(len(sessions)), *masks]),
        "gt_path": str(Path(config.pie_path) / "images"),
        "num_pairs": {ALL_TURN: len(sessions)},
        "not_computed": _NOT_COMPUTED[kind],
    }
    result, items = evaluate(config, Evaluation(runs, metrics, table, info), world)
    result["by_type"] = _by_type(items, listing)
    if world is None or world.is_main:
        write_results(config.save_folder, result, items, format_result(result))
    return result


def run(config: PieEvalConfig) -> None:
    """Scores on the ranks that there are, and prints the table."""
    with distributed(config.device) as world:
        result = evaluate_run(config, world)
        if world.is_main:
            print(format_result(result))


def format_result(result: dict[str, Any]) -> str:
    """The table of all items, one by type of edit, and what the set's own evaluator measures beside that."""
    types = {
        name: {key: format_number(value) for key, value in means.items()}
        for name, means in result["by_type"].items()
    }
    missing = [f"not computed here: {name} ({why})" for name, why in result["info"]["not_computed"].items()]
    parts = [
        format_tables(result),
        *([align(types)] if types else []),
        *(["\n".join(missing)] if missing else []),
    ]
    return "\n\n".join(parts)


def _by_type(items: list[Item], listing: Listing) -> dict[str, dict[str, float | None]]:
    """Means of the generated images by type of edit, in the order of the types."""
    groups: dict[str, list[dict[str, float | None]]] = {}
    for item in items:
        kind = listing[item["session"]].get("edit_type")
        if item["row"] == GENERATED and kind is not None:
            groups.setdefault(kind, []).append(item["metrics"])
    return {EDIT_TYPES.get(kind, kind): mean_over_pairs(groups[kind]) for kind in sorted(groups)}
