"""Seeds that other runs have measured, on other days or machines, shown together with this run's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.texts import read_json

SAME = ("num_train", "num_test", "num_scaled", "steps")
"""Of what a run was made with: seeds of runs that differ in these are of different experiments."""
MADE_WITH = ("machine", "date", "commit")
_ABOUT = (*SAME, *MADE_WITH, "seeds", "minutes")


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
    """Refuses runs of different experiments, and seeds that two have measured.

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
    seeds = [seed for part in parts for seed in part["seeds"]]
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise UserError(f"--add: seed {twice[0]} is in two runs; take it out of --seeds, or add one of them")


def about_all(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the numbers of all runs were made with; command and pictures are those of the last one."""
    joined = {name: ", ".join(dict.fromkeys(part[name] for part in parts)) for name in MADE_WITH}
    seeds = [seed for part in parts for seed in part["seeds"]]
    return {**parts[-1], **joined, "seeds": seeds, "minutes": sum(part["minutes"] for part in parts)}
