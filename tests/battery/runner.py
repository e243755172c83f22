"""Runs the reliability battery and prints a table; the exit status says whether every case passed.

    python -m tests.battery                     # all 733 cases, going on where the last run was stopped
    python -m tests.battery --only 3 --cases 2  # the first two cases of test 3
    python -m tests.battery --fresh             # from the start

A case that fails keeps its folder below `--results-dir`, where `results.json` holds all outcomes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from runtime.config import option, parse
from runtime.errors import UserError
from runtime.flags.ranges import COUNT_OR_NONE, THREADS, Range
from runtime.logging import progress
from runtime.texts import write_json
from tests.battery import (
    bad_samples,
    calls,
    corruption,
    data,
    determinism,
    disk,
    evaluators,
    hostile,
    killed_folders,
    killed_saves,
    nonfinite,
    paths,
    pipes,
    restarts,
    resume,
    settings,
    signals,
    weights,
)
from tests.battery.cases import Assets

TESTS = (
    ("exact resume", resume),
    ("SIGKILL in a save", killed_saves),
    ("SIGTERM", signals),
    ("corruption", corruption),
    ("numbers that are not finite", nonfinite),
    ("hostile checkpoints", hostile),
    ("bad samples", bad_samples),
    ("paths that escape", paths),
    ("crash and restart", restarts),
    ("disk", disk),
    ("determinism", determinism),
    ("evaluators", evaluators),
    ("settings", settings),
    ("weights", weights),
    ("data", data),
    ("no files", pipes),
    ("calls from Python", calls),
    ("SIGKILL in a folder's save", killed_folders),
)


@dataclass(frozen=True)
class Battery:
    """Runs the reliability battery."""

    results_dir: str = option("results/battery", help="outcomes, and the folders of cases that failed")
    only: int | None = option(None, within=Range(at_least=1, at_most=18), help="run this test alone, 1 to 18")
    cases: int = option(0, within=COUNT_OR_NONE, help="run the first so many cases of each test; 0 for all")
    case: list[int] | None = option(
        None, within=COUNT_OR_NONE, help="run these cases of --only alone, counted from 0"
    )
    num_workers: int = option(2, within=THREADS, help="cases that run at a time")
    fresh: bool = option(False, help="forget what an earlier run has done")

    def __post_init__(self) -> None:
        if self.only is not None and not 1 <= self.only <= len(TESTS):
            raise UserError(f"--only {self.only}: there are tests 1 to {len(TESTS)}")
        there = len(TESTS[self.only - 1][1].cases()) if self.only else 0
        if wrong := [index for index in self.case or [] if not 0 <= index < there]:
            raise UserError(f"--case {wrong[0]}: goes with --only, and must be one of its cases")


def run_case(number: int, index: int, root: str) -> dict:
    """Runs case `index` of test `number`; returns its outcome."""
    torch.set_num_threads(1)
    name, module = TESTS[number - 1]
    case = module.cases()[index]
    folder = Path(root) / f"test{number}" / f"{index:03d}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start, error = time.perf_counter(), None
    try:
        case.run(Assets(Path(root) / "assets"), folder)
    except Exception:
        error = traceback.format_exc()
    if error is None:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = round(time.perf_counter() - start, 2)
    return {"test": number, "index": index, "case": case.name, "error": error, "seconds": seconds}


def table(outcomes: list[dict], numbers: list[int]) -> str:
    """Test, cases, passed, failed, seconds, and the sums."""
    lines = [f"{'#':>2}  {'test':<28}{'cases':>6}{'passed':>8}{'failed':>8}{'seconds':>9}"]
    sums = [0, 0, 0, 0.0]
    for number in numbers:
        mine = [o for o in outcomes if o["test"] == number]
        failed = sum(o["error"] is not None for o in mine)
        row = [len(mine), len(mine) - failed, failed, sum(o["seconds"] for o in mine)]
        sums = [a + b for a, b in zip(sums, row, strict=True)]
        lines.append(
            f"{number:>2}  {TESTS[number - 1][0]:<28}{row[0]:>6}{row[1]:>8}{row[2]:>8}{row[3]:>9.0f}"
        )
    lines.append(f"    {'all':<28}{sums[0]:>6}{sums[1]:>8}{sums[2]:>8}{sums[3]:>9.0f}")
    return "\n".join(lines)


def run_battery(config: Battery) -> list[dict]:
    """The outcomes of all cases asked for, those of an earlier run of the same code among them."""
    root = Path(config.results_dir).resolve()
    file = root / "results.json"
    if config.fresh:
        shutil.rmtree(root, ignore_errors=True)
    Assets(root / "assets").make()
    numbers = [config.only] if config.only else list(range(1, len(TESTS) + 1))
    chosen = [
        (number, index)
        for number in numbers
        for index in range(len(TESTS[number - 1][1].cases()))
        if (not config.cases or index < config.cases) and index in (config.case or [index])
    ]
    code = code_version()
    known = json.loads(file.read_text()) if file.exists() else {"code": code, "outcomes": []}
    done = {}
    if known["code"] == code:
        done = {(o["test"], o["index"]): o for o in known["outcomes"] if o["error"] is None}
    pool = ProcessPoolExecutor(config.num_workers, get_context("spawn"))
    with pool, progress(total=len(chosen), desc="battery", unit="case") as bar:
        waiting = [pool.submit(run_case, *key, str(root)) for key in chosen if key not in done]
        bar.update(len(chosen) - len(waiting))
        for future in as_completed(waiting):
            outcome = future.result()
            done[outcome["test"], outcome["index"]] = outcome
            write_json(file, {"code": code, "outcomes": [done[key] for key in sorted(done)]})
            bar.update()
            if outcome["error"] is not None:
                bar.write(f"FAILED test {outcome['test']}, {outcome['case']}:\n{outcome['error']}")
    return [done[key] for key in chosen]


def code_version() -> str:
    """Tells whether an earlier run's outcomes still hold: git's commit and its changes to it."""
    words = [["rev-parse", "HEAD"], ["diff", "HEAD"]]
    return "".join(subprocess.run(["git", *w], capture_output=True, text=True).stdout for w in words)


def main() -> None:
    config = parse(Battery)
    start = time.perf_counter()
    outcomes = run_battery(config)
    print(table(outcomes, sorted({o["test"] for o in outcomes})))
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes")
    sys.exit(any(o["error"] is not None for o in outcomes))
