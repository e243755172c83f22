"""Test 3: SIGTERM ends the step on all ranks, saves one checkpoint, and the run goes on exactly."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

from tests.battery.cases import Assets, Case, same
from tests.battery.training import run_training

PHASES = {"step": 2, "save": 3, "evaluation": 3}  # and the step in which the signal comes
TARGETS = ("agent", 0, 1)
SHARDED = ["--parallel", "fsdp", "--checkpoint", "dcp", "--ema-decay", 0.9]
FLAGS = ["--max-steps", 10, "--preview-every", 3, "--cfg-scale", 1, "--dropout-p", 0.1]


def cases() -> list[Case]:
    whole = [
        Case(f"{phase}, to {target}, {times} time(s)", partial(_run, phase, target, times, []))
        for phase, target, times in itertools.product(PHASES, TARGETS, (1, 2))
    ]
    sharded = [
        Case(f"sharded, {phase}, to {target}", partial(_run, phase, target, 1, SHARDED))
        for phase, target in itertools.product(("step", "save"), TARGETS)
    ]
    return [*whole, *sharded]


def _run(phase: str, target: str | int, times: int, parallel: list, assets: Assets, folder: Path) -> None:
    flags = [*FLAGS, *parallel, "--ckpt-every", 3 if phase == "save" else 100]
    signals = [{"phase": phase, "target": target, "times": times, "step": PHASES[phase]}]
    plan = {"stage": "editing"}
    stopped = run_training(assets, folder / "run", {**plan, "signals": signals}, flags, ranks=2, expect=None)
    steps = [int(path.stem) for path in stopped.checkpoints]
    assert len(steps) == 1 and steps[0] < 10, f"checkpoints {steps}:\n{stopped.text[-3000:]}"
    assert "stopped by a signal" in stopped.text, stopped.text[-3000:]
    resumed = run_training(assets, folder / "run", plan, [*flags, "--auto-resume"], ranks=2)
    assert f"at step {steps[0]}" in resumed.text
    whole = run_training(assets, folder / "whole", plan, flags, ranks=2)
    assert same(resumed.checkpoint(10), whole.checkpoint(10)), "another end than without the stop"
