"""Tables of a study of rewards: shares of edits that are done, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from evaluations.editing.verification import HEADLINE
from evaluations.metrics.formulas import half_interval95
from runtime.errors import UserError
from runtime.texts import markdown_table, read_json

ROWS = {
    "start": "the start",
    "best_of_4": "best of 4 of the start, chosen by the verifier, temperature 0.1",
    "best_of_4_diverse": "the same at temperature 1",
    "supervised": "further supervised steps",
    "rewards": "rewards",
}
"""Files of rewards_study.sh, <name>_<seed>.json, and words for them."""
_AGAINST = ("start", "supervised")
_LEAST_MISSING = 0.01
ALL = "all edits"
Shares = dict[str, list[float]]
"""Kind of edit -> share that is done, of each seed."""


def read_study(root: Path, seeds: Sequence[int]) -> dict[str, dict[str, Shares]]:
    """Region and order -> row -> shares.

    Raises:
      UserError: a file is missing or is no JSON, or files hold different regions and orders.
    """
    found: dict[str, dict[str, Shares]] = {}
    for row in ROWS:
        for seed in seeds:
            file = root / f"{row}_{seed}.json"
            scores = read_json(file, dict, "run scripts/rewards_study.sh to its end")["scores"]
            if found and found.keys() != scores.keys():
                raise UserError(f"{file} holds {', '.join(scores)}; others hold {', '.join(found)}")
            for case, measured in scores.items():
                shares = found.setdefault(case, {}).setdefault(row, {})
                for kind, share in _by_kind(measured).items():
                    shares.setdefault(kind, []).append(share)
    return found


def _by_kind(measured: dict[str, Any]) -> dict[str, float]:
    return {ALL: measured[HEADLINE]} | {kind: of[HEADLINE] for kind, of in measured["by_kind"].items()}


def tables(study: dict[str, dict[str, Shares]]) -> str:
    """A table for each region and order: mean ± half of the 95 % t-interval; differences seed by seed."""
    parts = []
    for case, rows in study.items():
        kinds = list(rows["start"])
        lines = [[words, *(_said(rows[row][kind]) for kind in kinds)] for row, words in ROWS.items()]
        for other in _AGAINST:
            pairs = [zip(rows["rewards"][kind], rows[other][kind], strict=True) for kind in kinds]
            differences = [_said([new - old for new, old in pair]) for pair in pairs]
            lines.append([f"rewards - {ROWS[other]}", *differences])
        gained = [_gained(rows["rewards"][kind], rows["start"][kind]) for kind in kinds]
        lines.append(["share of what was missing that rewards gained", *gained])
        parts.append(f"**{case}**\n\n{markdown_table([case, *kinds], lines)}")
    return "\n".join(parts)


def _said(values: Sequence[float]) -> str:
    half = half_interval95(values)
    return f"{fmean(values):.3f}" + ("" if half is None else f" ± {half:.3f}")


def _gained(new: Sequence[float], old: Sequence[float]) -> str:
    """Of the means: a single seed may have next to nothing to gain. A dash where all seeds have not."""
    missing = 1 - fmean(old)
    return f"{(fmean(new) - fmean(old)) / missing:.2f}" if missing >= _LEAST_MISSING else "-"
