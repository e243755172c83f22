"""Seeds and rows that other runs have measured, on other days or machines, shown with this run's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.texts import read_json

SAME = ("num_train", "num_test", "num_scaled", "steps")
"""Of what a run was made with: seeds of runs that differ in these are of different experiments."""
MADE_WITH = ("machine", "date", "commit")
_ABOUT = (*SAME, *MADE_WITH, "seeds", "rows", "minutes")


def read_added(files: Sequence[str]) -> list[dict[str, Any]]:
    """The contents of the `results.json` of earlier runs.

    Raises:
      UserError: a file is missing, or holds no results.
    """
    contents = [
        read_json(Path(file), dict, "give the results.json of reproduce_results.py") for file in files
    ]
    for file, content in zip(files, contents, strict=True):
        if not {"about", "rows", "mask_error", "scaling"} <= content.keys():
            raise UserError(f"{file} holds no results; give the results.json of reproduce_results.py")
        if lacking := [name for name in _ABOUT if name not in content["about"]]:
            raise UserError(
                f"{file} does not say its {', '.join(lacking)}, as that of an older program; run that again"
            )
    return contents


def check_together(parts: Sequence[dict[str, Any]]) -> None:
    """Refuses runs of different experiments, and what two of them or none has measured.

    Args:
      parts: the "about" of each run, this one's last.
    """
    last = parts[-1]
    for part, name in product(parts[:-1], SAME):
        if part[name] != last[name]:
            raise UserError(
                f"--add: a run with {name} {part[name]} does not go with this one's {last[name]}; give both "
                "the same flags"
            )
    runs = Counter(pair for part in parts for pair in product(part["rows"], part["seeds"]))
    for row, seed in product(_all(parts, "rows"), _all(parts, "seeds")):
        if runs[row, seed] > 1:
            raise UserError(
                f"--add: {row} of seed {seed} is in two runs; take it out of --rows or --seeds, or add one "
                "of them"
            )
        if not runs[row, seed]:
            raise UserError(
                f"--add: {row} of seed {seed} is in no run, and rows are compared over the same seeds; add "
                f"the run that has it, or measure it: --rows {row} --seeds {seed}"
            )


def about_all(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the numbers of all runs were made with; command and pictures are those of the last one."""
    joined = {name: ", ".join(dict.fromkeys(part[name] for part in parts)) for name in MADE_WITH}
    minutes = sum(part["minutes"] for part in parts)
    measured = {"seeds": sorted(_all(parts, "seeds")), "rows": _all(parts, "rows"), "minutes": minutes}
    return {**parts[-1], **joined, **measured}


def _all(parts: Sequence[dict[str, Any]], name: str) -> list:
    return list(dict.fromkeys(value for part in parts for value in part[name]))
