"""The numbers of the results: read for each seed, put together over seeds, and held against the claims."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from autoregressive.scaling.choices import METHODS
from evaluations.editing.verification import HEADLINE
from evaluations.images import load_region
from evaluations.metrics.formulas import half_interval95
from runtime.errors import UserError
from scripts.reproduce.rows import (
    BASELINES,
    CROWDED,
    MASK_ERROR_MODELS,
    MASK_ERRORS,
    ROWS,
    SCALED,
    SCALING_REWARDS,
    data_root,
    mask_error_name,
    scaling_name,
)

SINGLE, MULTI = "all_turn", "final_turn"
RATES = (HEADLINE, "passed", "others_unchanged", "color", "shape", "size", "cells_fit", "one_offset")
KINDS = ("remove", "replace", "background")
ADD_FITTING = "add_fitting"

Numbers = dict[str, float | None]


@dataclass(frozen=True)
class Statistic:
    """A number over seeds: `values` in their order; None where a seed does not define it."""

    values: tuple[float | None, ...]

    @property
    def mean(self) -> float | None:
        known = [value for value in self.values if value is not None]
        return sum(known) / len(known) if known else None

    @property
    def half_interval(self) -> float | None:
        """Half the width of the 95 % t-interval of the mean; None for fewer than two values."""
        return half_interval95([value for value in self.values if value is not None])

    def minus(self, other: Statistic) -> Statistic:
        """The difference, seed by seed."""
        pairs = zip(self.values, other.values, strict=True)
        return Statistic(tuple(None if a is None or b is None else a - b for a, b in pairs))

    def to_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "half_interval95": self.half_interval, "values": list(self.values)}


@dataclass(frozen=True)
class Results:
    """All numbers, over seeds.

    Attributes:
      rows: row -> protocol -> number -> statistic.
      mask_error: model -> shares of edits that are done, in the order of `MASK_ERRORS`.
      scaling: name -> method -> column -> statistics by round.
    """

    rows: dict[str, dict[str, dict[str, Statistic]]]
    mask_error: dict[str, list[Statistic]]
    scaling: dict[str, dict[str, dict[str, list[Statistic]]]]

    def find(self, row: str, number: str, protocol: str = SINGLE) -> Statistic | None:
        """A number of a row, None if that row was not made."""
        return self.rows.get(row, {}).get(protocol, {}).get(number)

    def to_dict(self) -> dict[str, Any]:
        return _to_dicts(vars(self))

    @staticmethod
    def from_dict(content: dict[str, Any]) -> Results:
        """From what `to_dict` has made; further entries are left alone."""
        return Results(**{part.name: _from_dicts(content[part.name]) for part in fields(Results)})

    @staticmethod
    def together(parts: Sequence[tuple[Sequence[int], Results]]) -> Results:
        """The rows and seeds of several runs; values in the order of rising seeds.

        Args:
          parts: a run's seeds, in the order of its values, and its numbers.
        Raises:
          UserError: of a row one run holds a number that another lacks.
        """
        found: dict[str, dict[str, list]] = {part.name: {} for part in fields(Results)}
        for seeds, results in parts:
            for name, entries in found.items():
                for entry, value in getattr(results, name).items():
                    entries.setdefault(entry, []).append((seeds, value))
        return Results(
            **{
                name: {entry: _joined(runs, f"{name}, {entry}") for entry, runs in entries.items()}
                for name, entries in found.items()
            }
        )


def collect(root: Path, seeds: Sequence[int], groups: Sequence[str]) -> Results:
    """Reads what `run_seed` has left for the seeds and groups."""
    rows = {}
    for name in ROWS:
        if name in groups:
            where = data_root(root, ROWS[name].data)
            rows[name] = _over_seeds([read_row(where, seed, name) for seed in seeds])
    for name, (beside, evaluated, _) in BASELINES.items():
        if beside in groups:
            where = data_root(root, ROWS[beside].data) / "scores"
            metrics = [_read(where / f"seed{seed}" / beside / "evaluation_metrics.json") for seed in seeds]
            rows[name] = _over_seeds([_row_numbers(found, evaluated) for found in metrics])
    mask_error, scaling = {}, {}
    if "mask_error" in groups:
        for model in MASK_ERROR_MODELS:
            names = [mask_error_name(model, pixels) for pixels in MASK_ERRORS]
            points = [_over_seeds([read_row(root, seed, name) for seed in seeds]) for name in names]
            mask_error[model] = [point[SINGLE][HEADLINE] for point in points]
    for task, reward in product(SCALED, SCALING_REWARDS):
        if ("crowded_scaling" if task == CROWDED else "scaling") not in groups:
            continue
        where, measured = (data_root(root, CROWDED), "draw") if task == CROWDED else (root, task)
        files = [
            where / "scores" / f"seed{seed}" / "scaling" / f"{scaling_name(measured, reward)}.json"
            for seed in seeds
        ]
        found = [_read(file) for file in files]
        scaling[scaling_name(task, reward)] = {m: _columns([one[m] for one in found]) for m in METHODS}
    return Results(rows, mask_error, scaling)


def read_row(root: Path, seed: int, name: str) -> dict[str, Numbers]:
    """One row of one seed: protocol -> number -> value; the costs of an edit are the single turns'."""
    folder = f"seed{seed}/{name}"
    numbers = _row_numbers(_read(root / "scores" / folder / "evaluation_metrics.json"), "generated")
    edits = _read(root / "edits" / folder / "samples.json")["edits"]
    single = {key: edit for key, edit in edits.items() if "_iter_" not in key}
    for cost in ("tokens", "seconds"):
        numbers[SINGLE][cost] = sum(edit[cost] for edit in single.values()) / len(single)
    if name == "auto_mask" and (true := root / "edits" / f"seed{seed}" / "nep" / "regions").is_dir():
        numbers[SINGLE]["iou"] = mean_iou(root / "edits" / folder / "regions", true, list(single))
    return numbers


def mean_iou(found: Path, true: Path, keys: Sequence[str]) -> float:
    """Mean intersection over union of two folders of regions."""
    shares = []
    for key in keys:
        a, b = load_region(found / key), load_region(true / key)
        shares.append(np.logical_and(a, b).sum() / max(np.logical_or(a, b).sum(), 1))
    return float(np.mean(shares))


def _row_numbers(metrics: dict[str, Any], row: str) -> dict[str, Numbers]:
    numbers = {}
    for protocol in (SINGLE, MULTI):
        measured = metrics if row == "generated" else metrics[row]
        if protocol not in measured:
            continue
        rates = metrics["verifier"][row][protocol]
        of_kind = {kind: rates["by_kind"].get(kind, {}).get(HEADLINE) for kind in (*KINDS, ADD_FITTING)}
        numbers[protocol] = measured[protocol] | {rate: rates[rate] for rate in RATES} | of_kind
    return numbers


def _over_seeds(found: Sequence[dict[str, Numbers]]) -> dict[str, dict[str, Statistic]]:
    return {
        protocol: {key: Statistic(tuple(one[protocol].get(key) for one in found)) for key in numbers}
        for protocol, numbers in found[0].items()
    }


def _columns(found: Sequence[dict[str, list[float]]]) -> dict[str, list[Statistic]]:
    """Columns of seeds to statistics by round."""
    return {key: [Statistic(same) for same in _side_by_side([one[key] for one in found])] for key in found[0]}


def _joined(runs: Sequence[tuple[Sequence[int], Any]], where: str) -> Any:
    """Statistics of several runs, each beside its seeds, over all of them."""
    seeds, parts = zip(*runs, strict=True)
    if isinstance(parts[0], Statistic):
        pairs = [pair for own, part in runs for pair in zip(own, part.values, strict=True)]
        return Statistic(tuple(value for _, value in sorted(pairs, key=lambda pair: pair[0])))
    if isinstance(parts[0], dict):
        if differing := set().union(*parts) - set.intersection(*map(set, parts)):
            raise UserError(
                f"{where}: one run has measured {', '.join(sorted(differing))} and another has not; measure "
                "both with one program"
            )
        return {key: _joined([(own, part[key]) for own, part in runs], f"{where}, {key}") for key in parts[0]}
    return [_joined(list(zip(seeds, same, strict=True)), where) for same in _side_by_side(parts)]


def _side_by_side(columns: Sequence[Sequence[Any]]) -> Iterator[tuple]:
    """The first entries of the columns, the second ones, …; a column that ends early stays where it is."""
    length = max(map(len, columns))
    return zip(*([*column, *column[-1:] * (length - len(column))] for column in columns), strict=True)


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _from_dicts(content: Any) -> Any:
    if isinstance(content, dict) and "values" in content:
        return Statistic(tuple(content["values"]))
    if isinstance(content, dict):
        return {key: _from_dicts(value) for key, value in content.items()}
    return [_from_dicts(value) for value in content]


def _to_dicts(content: Any) -> Any:
    if isinstance(content, Statistic):
        return content.to_dict()
    if isinstance(content, dict):
        return {key: _to_dicts(value) for key, value in content.items()}
    return [_to_dicts(value) for value in content]
