"""Test 2: SIGKILL at a random moment of a save loses nothing older, and leaves nothing half that is taken."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import torch

from runtime.checkpoint import load_checkpoint, require_whole, save_checkpoint
from runtime.errors import UserError
from runtime.training.checkpoints import list_checkpoints, newest_whole_checkpoint, prune_checkpoints
from tests.battery.cases import Assets, Case, same


def cases() -> list[Case]:
    kinds = ("a new file", "one in the place of another")
    return [Case(f"moment {number}, {kinds[number % 2]}", partial(_run, number)) for number in range(100)]


def content_of(step: int) -> dict:
    """A checkpoint of some megabytes, which its step decides."""
    weights = {f"layer{i}": torch.full((64, 1024), float(step + i)) for i in range(8)}
    return {"model": weights, "optimizer": {"state": {0: dict(weights)}}, "steps": step}


def _run(number: int, assets: Assets, folder: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _save_on_and_on(folder, write, same_name=number % 2 == 1)
    os.close(write)
    first = os.read(read, 4)
    assert first, "the first checkpoint was not written"
    time.sleep(random.Random(number).uniform(0, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told = [first]
    while step := os.read(read, 4):
        told.append(step)
    os.close(read)
    last_told = int.from_bytes(told[-1], "little")

    require_whole_ones(folder, last_told, named_by_step=number % 2 == 0)
    save_checkpoint(folder / "9999999.pt", content_of(1))
    prune_checkpoints(folder / "9999999.pt", 1)
    assert sorted(p.name for p in folder.iterdir()) == ["9999999.pt", "9999999.pt.sha256"], "leftovers stay"


def require_whole_ones(checkpoints: Path, last_told: int, *, named_by_step: bool = True) -> None:
    """After a SIGKILL: the newest whole checkpoint is no older than what was told, and all that pass for
    whole are what they were saved as."""
    whole = newest_whole_checkpoint(checkpoints)
    assert whole is not None, "no whole checkpoint is left"
    assert load_checkpoint(whole)["steps"] >= last_told, f"{whole} is older than step {last_told}"
    for path in list_checkpoints(checkpoints):
        try:
            require_whole(path, needs_manifest=True)
        except UserError:
            continue
        content = load_checkpoint(path)
        assert same(content, content_of(content["steps"])), f"{path} passes, but is another"
        assert content["steps"] == int(path.stem) or not named_by_step, f"{path} is of another step"


def _save_on_and_on(folder: Path, pipe: int, *, same_name: bool) -> None:
    try:
        for step in range(1, 1000):
            path = folder / f"{0 if same_name else step:07d}.pt"
            save_checkpoint(path, content_of(step))
            prune_checkpoints(path, 2)
            os.write(pipe, step.to_bytes(4, "little"))
    finally:
        os._exit(1)
