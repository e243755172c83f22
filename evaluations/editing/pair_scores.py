"""Scores of two folders of pictures with the same names: the work of pairs_eval.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataset.records.own_pairs import find_own_pairs, holds_own_pairs
from dataset.testsets.folders import name_differences, require_folder
from dataset.testsets.listed import ListedTurn
from dataset.testsets.pairs import ALL_TURN, GeneratedEdit, ScoredPair
from evaluations.editing.engine import PAGE_FILE, Evaluation, evaluate, write_results
from evaluations.editing.flags import PAIR_NAMES, PairsEvalConfig
from evaluations.editing.measure import Run
from evaluations.editing.registry import MAGICBRUSH_METRICS, Metric, measurable, select_metrics
from evaluations.editing.tables import format_tables
from evaluations.folders import images_by_name
from runtime.distributed import Distributed, distributed
from runtime.errors import UserError
from runtime.logging import get_logger

log = get_logger(__name__)


def find_truth(config: PairsEvalConfig) -> tuple[dict[str, Path], dict[str, Path], dict[str, ListedTurn]]:
    """Of each picture by its name: the true result, the source where it is known, and the texts likewise.

    Raises:
      UserError: no such folder, or own pairs with mistakes.
    """
    truth = require_folder(config.truth)
    if holds_own_pairs(truth):
        pairs = {pair.name: pair for pair in find_own_pairs(truth)}
        targets = {name: pair.edited for name, pair in pairs.items()}
        sources = {name: pair.source for name, pair in pairs.items()}
        turns = {
            name: ListedTurn(1, pair.source.name, pair.edited.name, pair.caption, pair.prompt)
            for name, pair in pairs.items()
        }
    else:
        targets, sources = images_by_name(truth), {}
        turns = {name: ListedTurn(1, name, name) for name in targets}
    return targets, images_by_name(config.source_path) if config.source_path else sources, turns


def find_pairs(config: PairsEvalConfig) -> list[ScoredPair]:
    """The pairs in the order of the true results' names.

    Raises:
      UserError: names the pictures that only one of the folders has.
    """
    targets, sources, turns = find_truth(config)
    results = images_by_name(require_folder(config.results))
    _require_same(config.results, results.keys(), targets.keys(), config.truth)
    if sources:
        where = config.source_path or config.truth
        _require_same(where, sources.keys() & targets.keys(), targets.keys(), config.truth)
    pairs = []
    for name, target in targets.items():
        source, result = sources.get(name), results[name]
        edits = (GeneratedEdit(result, source, f"{name}.png"),)
        pairs.append(ScoredPair(ALL_TURN, name, turns[name], result, target, source, edits, f"{name}.png"))
    return pairs


def _require_same(folder: str, found: Any, wanted: Any, listing: str) -> None:
    if missing_or_extra := name_differences(set(wanted) - set(found), set(found) - set(wanted), listing):
        raise UserError(
            f"{folder}: {len(wanted)} pictures of the names in {listing} wanted.{missing_or_extra}"
        )


def choose_metrics(config: PairsEvalConfig, pairs: list[ScoredPair]) -> list[Metric]:
    """Those that are asked for, or all that can be measured; the log names the others, and why.

    Raises:
      UserError: an unknown metric, or one that cannot be measured.
    """
    provided = {"caption"} if all(pair.turn.caption is not None for pair in pairs) else set()
    if config.regions_path:
        if any(pair.source is None for pair in pairs):
            raise UserError("--regions-path asks what changed: give the pictures before by --source-path too")
        provided.add("region")
    joining = ("region", "unchanged") if config.regions_path else ()
    names = config.metric
    if names is None:
        inputs = {"region", "caption"} - provided
        wanted = [name for name in PAIR_NAMES if not inputs & set(MAGICBRUSH_METRICS[name].needs)]
        can, cannot = measurable(wanted, MAGICBRUSH_METRICS, provided, config)
        names = ",".join(can)
        for name, reason in cannot.items():
            log.info("without %s: %s", name, reason)
    return select_metrics(names, MAGICBRUSH_METRICS, provided, joining)


def evaluate_run(config: PairsEvalConfig, world: Distributed | None = None) -> dict[str, Any]:
    """Scores the pairs and writes `evaluation_metrics.json` and its company to the save path.

    Returns:
      The content of `evaluation_metrics.json`: {"all_turn": {"l1": ...}}, with sources "copy_source" -> the
      same, and "info". A number that no pair defines is None.
    Raises:
      UserError: for missing, extra or unreadable files, unknown metrics, and non-finite numbers.
    """
    pairs = find_pairs(config)
    metrics = choose_metrics(config, pairs)
    regions = Path(config.regions_path) if config.regions_path else None
    info = {
        "data_set": f"{len(pairs)} pairs",
        "gt_path": config.truth,
        "num_pairs": {ALL_TURN: len(pairs)},
    }
    evaluation = Evaluation([Run(pairs, regions)], metrics, MAGICBRUSH_METRICS, info)
    result, items = evaluate(config, evaluation, world)
    if world is None or world.is_main:
        write_results(config.save_folder, result, items, format_tables(result))
    return result


def run(config: PairsEvalConfig) -> None:
    """Scores on the ranks that there are, prints the table, and says where the page is."""
    with distributed(config.device) as world:
        result = evaluate_run(config, world)
        if world.is_main:
            print(format_tables(result))
            print(f"\nthe worst and best with pictures: {config.save_folder / PAGE_FILE}")
