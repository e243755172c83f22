"""Test 9: a rank crashes, torchrun starts all again, and the end is that of a run without a crash."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

from tests.battery.cases import Assets, Case, same
from tests.battery.training import run_training

FLAGS = ["--max-steps", 8, "--ckpt-every", 2, "--dropout-p", 0.1]


def cases() -> list[Case]:
    once = [
        Case(f"{how} of rank {rank} at step {step}", partial(_run, [(how, rank, step)]))
        for how, rank, step in itertools.product(("sigkill", "exit", "exception", "abort"), (0, 1), (1, 5))
    ]
    twice = [
        Case(f"{how} of rank 0, then of rank 1", partial(_run, [(how, 0, 3), (how, 1, 5)]))
        for how in ("sigkill", "exit", "exception", "abort")
    ]
    return [*once, *twice]


def _run(crashes: list[tuple[str, int, int]], assets: Assets, folder: Path) -> None:
    plan = {"stage": "t2i"}
    crash = [
        {"how": how, "rank": rank, "step": step, "attempt": attempt}
        for attempt, (how, rank, step) in enumerate(crashes)
    ]
    run = run_training(assets, folder / "run", {**plan, "crash": crash}, FLAGS, ranks=2, max_restarts=3)
    whole = run_training(assets, folder / "whole", plan, FLAGS, ranks=2)
    assert same(run.checkpoint(8), whole.checkpoint(8)), "another end than without the crash"
    lines = (folder / "run" / "results" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 8, f"{len(lines)} lines of metrics for 8 steps"
