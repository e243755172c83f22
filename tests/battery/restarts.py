"""Test 9: a rank crashes, torchrun starts all again, and the end is that of a run without a crash."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

from tests.battery.cases import Assets, Case, same
from tests.battery.training import run_training

SHARDED = ["--parallel", "fsdp", "--checkpoint", "dcp", "--ema-decay", 0.9]
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
    victims = {"rank 0": (0,), "rank 1": (1,), "all ranks": (0, 1)}
    written = [
        Case(f"sharded, SIGKILL of {name} while step 4 is written", partial(_run_sharded, "write", ranks, 4))
        for name, ranks in victims.items()
    ]
    sharded = [
        Case(f"sharded, sigkill of {name} at step 5", partial(_run_sharded, "sigkill", ranks, 5))
        for name, ranks in victims.items()
    ]
    return [*once, *twice, *written, *sharded]


def _run(crashes: list[tuple[str, int, int]], assets: Assets, folder: Path) -> None:
    crash = [
        {"how": how, "rank": rank, "step": step, "attempt": attempt}
        for attempt, (how, rank, step) in enumerate(crashes)
    ]
    _compare(crash, [], assets, folder)


def _run_sharded(how: str, ranks: tuple[int, ...], step: int, assets: Assets, folder: Path) -> None:
    crash = [{"how": how, "rank": rank, "step": step, "attempt": 0} for rank in ranks]
    text = _compare(crash, SHARDED, assets, folder)
    if how == "write":
        assert "at step 2" in text, "it went on from another folder than the newest whole one"


def _compare(crash: list[dict], flags: list, assets: Assets, folder: Path) -> str:
    """Trains with and without the crashes; returns what the first one printed."""
    plan, flags = {"stage": "t2i"}, [*FLAGS, *flags]
    run = run_training(assets, folder / "run", {**plan, "crash": crash}, flags, ranks=2, max_restarts=3)
    whole = run_training(assets, folder / "whole", plan, flags, ranks=2)
    assert same(run.checkpoint(8), whole.checkpoint(8)), "another end than without the crash"
    lines = (folder / "run" / "results" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 8, f"{len(lines)} lines of metrics for 8 steps"
    return run.text
