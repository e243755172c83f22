"""Scores of results on PIE-Bench: the work of pie_eval.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataset.testsets.pairs import ALL_TURN
from dataset.testsets.pie_bench import EDIT_TYPES, find_pie_pairs, load_pie_items, load_scored_region
from evaluations.editing.engine import Evaluation, Item, evaluate, write_results
from evaluations.editing.flags import PieEvalConfig
from evaluations.editing.measure import GENERATED, Run
from evaluations.editing.pie_metrics import PIE_METRICS
from evaluations.editing.registry import select_metrics
from evaluations.editing.tables import align, format_number, format_tables
from evaluations.metrics.formulas import mean_over_pairs
from runtime.distributed import Distributed, distributed

_PUBLISHED = 700


def evaluate_run(config: PieEvalConfig, world: Distributed | None = None) -> dict[str, Any]:
    """Scores results and writes `evaluation_metrics.json` and its company to the save path.

    Args:
      config: what the command line takes.
      world: the ranks that share the work, and their devices; None = this process alone.
    Returns:
      The content of `evaluation_metrics.json`: {"all_turn": {"structure_distance": ...}}, "copy_source" and
      (with a ceiling folder) "tokenizer_ceiling" -> the same, "by_type" -> edit type -> means, "info".
    Raises:
      UserError: for missing, extra or unreadable files, unknown metrics, weights that are missing or do not
        fit, and non-finite numbers.
    """
    sessions, listing = load_pie_items(config.pie_path)
    metrics = select_metrics(config.metric, PIE_METRICS, {"region", "caption"})
    ceiling = Path(config.ceiling_path) if config.ceiling_path else None
    regions = {
        session.id: load_scored_region(
            config.pie_path, session, listing[session.id].get("marks_nothing", False)
        )
        for session in sessions
    }
    runs = [
        Run(
            find_pie_pairs(sessions, listing, generated, config.pie_path),
            regions=regions,
            ceiling_path=ceiling,
            seed=seed,
        )
        for seed, generated in enumerate(config.folders)
    ]
    subset = "the whole set" if len(sessions) == _PUBLISHED else f"of {_PUBLISHED}"
    info = {
        "data_set": f"PIE-Bench, {len(sessions)} items ({subset})",
        "gt_path": str(Path(config.pie_path) / "images"),
        "num_pairs": {ALL_TURN: len(sessions)},
    }
    result, items = evaluate(config, Evaluation(runs, metrics, PIE_METRICS, info), world)
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
    """The table of all items, and one by type of edit."""
    types = {
        name: {key: format_number(value) for key, value in means.items()}
        for name, means in result["by_type"].items()
    }
    return "\n\n".join([format_tables(result), align(types)])


def _by_type(items: list[Item], listing: dict[str, dict[str, str]]) -> dict[str, dict[str, float | None]]:
    """Means of the generated images by type of edit, in the order of the types."""
    groups: dict[str, list[dict[str, float | None]]] = {}
    for item in items:
        if item["row"] == GENERATED:
            groups.setdefault(listing[item["session"]]["edit_type"], []).append(item["metrics"])
    return {EDIT_TYPES.get(kind, kind): mean_over_pairs(groups[kind]) for kind in sorted(groups)}
