"""Test 11: the same run gives the same bits, and the same samples on any number of ranks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.battery.cases import Assets, Case, same
from tests.battery.training import run_training

FLAGS = ["--max-steps", 8, "--dropout-p", 0.1, "--class-dropout-p", 0.2, "--optimizer", "muon"]


def cases() -> list[Case]:
    repeats = [Case(f"repeat {number}", partial(_repeat, number)) for number in (1, 2, 3)]
    return [*repeats, *(Case(f"samples of {ranks} rank(s)", partial(_samples, ranks)) for ranks in (1, 2, 4))]


def _repeat(number: int, assets: Assets, folder: Path) -> None:
    ranks, workers = {1: (1, 0), 2: (2, 0), 3: (2, 2)}[number]
    flags = [*FLAGS, "--num-workers", workers]
    one, two = (
        run_training(assets, folder / name, {"stage": "editing"}, flags, ranks=ranks) for name in ("a", "b")
    )
    assert same(one.checkpoint(8), two.checkpoint(8)), "the checkpoints differ"
    assert one.batches() == two.batches(), "the batches or the weights on the way differ"


def _samples(ranks: int, assets: Assets, folder: Path) -> None:
    alone = run_training(assets, folder / "alone", {"stage": "editing"}, FLAGS)
    run = run_training(assets, folder / "run", {"stage": "editing"}, FLAGS, ranks=ranks)
    for step, batch in alone.batches().items():
        shared = [sample for rank in range(ranks) for sample in run.batches(rank)[step]["samples"]]
        assert shared == batch["samples"], f"step {step}"
