"""Test 5: a number that is not finite makes every rank skip that step alike, and its samples are named."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

from tests.battery.cases import Assets, Case
from tests.battery.training import run_training

STEP = 1
FLAGS = ["--max-steps", 4, "--class-dropout-p", 0, "--ckpt-every", 100]


def cases() -> list[Case]:
    every = itertools.product(
        ("loss", "gradient", "pixels", "text"), ("nan", "inf", "-inf"), (0, 1), ("none", "bf16")
    )
    return [
        Case(f"{value} in {place}, rank {rank}, {precision}", partial(_run, place, value, rank, precision))
        for place, value, rank, precision in every
    ]


def _run(place: str, value: str, rank: int, precision: str, assets: Assets, folder: Path) -> None:
    poison = {"place": place, "value": value, "step": STEP, "rank": rank}
    flags = [*FLAGS, "--mixed-precision", precision]
    run = run_training(assets, folder, {"stage": "editing", "poison": poison}, flags, ranks=2)
    batches = [run.batches(0), run.batches(1)]
    for step in range(4):
        assert batches[0][step]["weights"] == batches[1][step]["weights"], f"the ranks differ at step {step}"
    weights = [batches[0][step]["weights"] for step in range(4)]
    assert weights[STEP] == weights[STEP + 1], "the weights changed"
    assert len(set(weights)) == 3, "another step was skipped too"
    skipped = [line for line in run.text.splitlines() if "skipped" in line]
    assert len(skipped) == 1 and f"step {STEP + 1} skipped" in skipped[0], skipped
    for batch in batches:
        for origin, _ in batch[STEP]["samples"]:
            assert origin in skipped[0], f"{origin} is not named: {skipped[0]}"
