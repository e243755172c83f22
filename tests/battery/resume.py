"""Test 1: a stopped run goes on exactly, wherever it was stopped."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

from tests.battery.cases import Assets, Case, same
from tests.battery.training import run_training

EPOCH = 6  # steps: 24 samples, four a step
POINTS = {
    "step 1": [1],
    "mid-epoch": [EPOCH // 2],
    "epoch end": [EPOCH],
    "across an epoch": [EPOCH + 2],
    "twice": [EPOCH - 1, EPOCH + 1],
}
AFTER = 8  # steps compared after the last stop
FLAGS = ["--max-steps", 24, "--ckpt-every", 1, "--dropout-p", 0.1, "--class-dropout-p", 0.2]
FLAGS += ["--ema-decay", 0.9, "--optimizer", "muon", "--lr-scheduler", "cosine"]


def cases() -> list[Case]:
    every = itertools.product(POINTS, ("t2i", "editing"), (0, 2), (1, 2))
    return [
        Case(
            f"{stage}, {point}, {workers} workers, {ranks} ranks", partial(_run, point, stage, workers, ranks)
        )
        for point, stage, workers, ranks in every
    ]


def _run(point: str, stage: str, workers: int, ranks: int, assets: Assets, folder: Path) -> None:
    stops = POINTS[point]
    end = stops[-1] + AFTER
    plan = {"stage": stage}
    whole = run_training(assets, folder / "whole", {**plan, "halt": end}, FLAGS, ranks=ranks, expect=None)
    for halt in [*stops, end]:
        flags = [*FLAGS, "--auto-resume", "--num-workers", workers]
        run = run_training(assets, folder / "run", {**plan, "halt": halt}, flags, ranks=ranks, expect=None)
    for step in (stops[-1], end):
        assert same(run.checkpoint(step), whole.checkpoint(step)), f"the checkpoints of step {step} differ"
    for rank in range(ranks):
        wanted, found = whole.batches(rank), run.batches(rank)
        for step in range(end + 1):
            assert found[step] == wanted[step], f"rank {rank}, step {step}: {found[step]} != {wanted[step]}"
