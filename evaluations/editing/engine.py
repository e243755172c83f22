"""The work that the editing evaluators share: measuring pairs on all ranks, means, intervals, files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.testsets.pairs import ScoredPair
from evaluations.editing.embedding import embed
from evaluations.editing.flags import EvalConfig, ScoreFlags
from evaluations.editing.measure import GENERATED, Run, Tools, measure_rows
from evaluations.editing.registry import Metric, load_metric_networks
from evaluations.metrics.encoders import Network, full_float32
from evaluations.metrics.formulas import half_interval95, mean_over_pairs
from evaluations.report.item_page import write_item_page
from runtime.config import command_line
from runtime.devices import pick_device
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.logging import get_logger, progress
from runtime.texts import write_json, write_text

log = get_logger(__name__)

METRICS_FILE = "evaluation_metrics.json"
ITEMS_FILE = "evaluation_items.json"
PAGE_FILE = "evaluation_items.html"
TABLE_FILE = "evaluation_table.txt"

Item = dict[str, Any]
Scores = dict[str, float | None]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluator hands over.

    Attributes:
      runs: one per seed, with the same pairs.
      metrics: what to measure.
      table: all metrics of the evaluator, for messages.
      info: what the evaluator knows about its data.
    """

    runs: Sequence[Run]
    metrics: list[Metric]
    table: Mapping[str, Metric]
    info: dict[str, Any]


def per_seed(flag: str, values: Sequence[str], config: EvalConfig) -> list[str | None]:
    """A flag's values, one for each generated folder; all None without the flag."""
    num_seeds = len(config.folders)
    if values and len(values) != num_seeds:
        raise UserError(
            f"{flag} names {len(values)} but --generated_path {num_seeds}: give one for each, in order"
        )
    return list(values) or [None] * num_seeds


def evaluate(
    config: ScoreFlags, evaluation: Evaluation, world: Distributed | None
) -> tuple[dict[str, Any], list[Item]]:
    """Measures all pairs of all seeds; every rank must call it, and gets the same.

    Returns:
      The content of `evaluation_metrics.json`, and the items of `evaluation_items.json`.
    """
    world = world or Distributed(0, 1, 0, pick_device(config.device))
    networks = load_metric_networks(evaluation.metrics, evaluation.table, config, world.device)
    with full_float32(world.device), ThreadPoolExecutor(max(config.num_workers, 1)) as pool:
        items, cut_captions = _measure_all(config, evaluation, networks, world, pool)
    if cut_captions and world.is_main:
        log.warning(
            "%d captions are longer than CLIP's 77 tokens and were cut, such as %r",
            len(cut_captions),
            min(cut_captions),
        )
    result = _summarise(items, config.folders)
    result["info"] = {
        **evaluation.info,
        **{key: value for key, value in dataclasses.asdict(config).items() if value is not None},
        "num_pairs_defined": _count_defined(items),
        "num_captions_cut": len(cut_captions),
        "weights": {name: network.describe() for name, network in networks.items() if world.is_main},
        "command": command_line(),
    }
    return result, items


def write_results(folder: Path, result: dict[str, Any], items: list[Item], table: str) -> None:
    """Writes items, page, table and, last, the metrics."""
    write_json(folder / ITEMS_FILE, items, allow_nan=False)
    write_item_page(folder / PAGE_FILE, items)
    write_text(folder / TABLE_FILE, f"{table}\n")
    write_json(folder / METRICS_FILE, result, allow_nan=False)


def _measure_all(
    config: ScoreFlags,
    evaluation: Evaluation,
    networks: Mapping[str, Network],
    world: Distributed,
    pool: ThreadPoolExecutor,
) -> tuple[list[Item], frozenset[str]]:
    """Items in the order of the seeds and pairs, whatever the number of ranks and threads; cut captions."""
    jobs = [(run, pair) for run in evaluation.runs for pair in run.pairs]
    mine = _share(jobs, world)
    features = embed(
        networks,
        [path for _, (run, pair) in mine for path in _images_of(run, pair)],
        [text for _, (_, pair) in mine for text in (pair.turn.caption, pair.turn.input_caption)],
        config.batch_size,
        pool,
        quiet=not world.is_main,
    )
    tools = Tools(evaluation.metrics, features, networks)
    rows = pool.map(lambda job: measure_rows(job[1][1], job[1][0], tools), mine)
    rows = progress(rows, total=len(mine), desc="measure", unit="pair", disable=not world.is_main)
    share = [(number, items) for (number, _), items in zip(mine, rows, strict=True)]
    gathered = world.gather_objects((share, features.cut_captions))
    numbered = sorted((pair for part, _ in gathered for pair in part), key=lambda pair: pair[0])
    cut_captions = frozenset().union(*(cut for _, cut in gathered))
    return [item for _, items in numbered for item in items], cut_captions


def _share(
    jobs: list[tuple[Run, ScoredPair]], world: Distributed
) -> list[tuple[int, tuple[Run, ScoredPair]]]:
    """This rank's jobs, numbered: those of one session stay together, for they share images."""
    ranks: dict[str, int] = {}
    for _, pair in jobs:
        ranks.setdefault(pair.session, len(ranks) % world.world_size)
    return [(number, job) for number, job in enumerate(jobs) if ranks[job[1].session] == world.rank]


def _images_of(run: Run, pair: ScoredPair) -> list[Path]:
    source = [] if pair.source is None else [pair.source]
    return [*run.row_images(pair).values(), pair.target, *source]


def _summarise(items: list[Item], folders: list[str]) -> dict[str, Any]:
    """Means over pairs, then over seeds, by row and protocol; the generated row's protocols stand first."""
    result, comparisons, verifier, intervals = {}, {}, {}, {}
    seeds: list[dict[str, Any]] = [{"generated_path": folder} for folder in folders]
    for row, protocol in dict.fromkeys((item["row"], item["protocol"]) for item in items):
        chosen = [item for item in items if (item["row"], item["protocol"]) == (row, protocol)]
        if row == GENERATED:
            means = [
                mean_over_pairs([item["metrics"] for item in chosen if item["seed"] == seed])
                for seed in range(len(seeds))
            ]
            result[protocol] = mean_over_pairs(means)
            intervals[protocol] = _intervals(means)
            for seed, scores in zip(seeds, means, strict=True):
                seed[protocol] = scores
        else:
            comparisons.setdefault(row, {})[protocol] = mean_over_pairs([item["metrics"] for item in chosen])
        if "verdict" in chosen[0]:
            from evaluations.editing.verification import verifier_table

            verifier.setdefault(row, {})[protocol] = verifier_table([item["verdict"] for item in chosen])
    result |= comparisons
    if verifier:
        result["verifier"] = verifier
    if len(seeds) > 1:
        result |= {"interval95": intervals, "seeds": seeds}
    return result


def _intervals(means: list[Scores]) -> Scores:
    return {
        key: half_interval95([scores[key] for scores in means if scores[key] is not None]) for key in means[0]
    }


def _count_defined(items: list[Item]) -> dict[str, dict[str, int]]:
    """Protocol -> number -> for how many generated images, of all seeds, it is defined."""
    defined: dict[str, dict[str, int]] = {}
    for item in items:
        if item["row"] == GENERATED:
            counts = defined.setdefault(item["protocol"], {})
            for key, value in item["metrics"].items():
                counts[key] = counts.get(key, 0) + (value is not None)
    return defined
