"""Kills a two-rank stage-2 training ten times with SIGKILL; it ends as one that was never killed.

    python -m tests.battery.kill_ten_times

Every process is killed, torchrun among them, at a random moment after the first new checkpoint.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runtime.checkpoint import load_checkpoint
from runtime.errors import UserError, run_command
from runtime.logging import progress
from runtime.training.checkpoints import list_checkpoints
from tests.battery.cases import Assets, same
from tests.battery.training import ROOT

KILLS, STEPS, EVERY = 10, 1000, 5


def start(assets: Assets, results: Path) -> subprocess.Popen:
    """The training, in a process group of its own; goes on where it was."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["autoregressive/train/train_editing.py", *assets.train_flags(), "--mask_in_context"]
    command += ["--data-path", str(assets.shapes / "train" / "editing.jsonl"), "--results-dir", str(results)]
    command += ["--max-steps", str(STEPS), "--epochs", "1000", "--ckpt-every", str(EVERY)]
    command += ["--max-checkpoints", "3", "--dropout-p", "0.1", "--num-workers", "2", "--auto-resume"]
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def newest(results: Path) -> int:
    """The step of the newest checkpoint, 0 without one."""
    return max((int(path.stem) for path in list_checkpoints(results / "checkpoints")), default=0)


def kill_all(process: subprocess.Popen) -> None:
    """SIGKILL to torchrun, the ranks and their loaders: each rank is a process group of its own."""
    table = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in table.splitlines()[1:]]
    family = {process.pid}
    for _ in range(4):  # generations
        family |= {pid for pid, parent in parents if parent in family}
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    process.wait()


def main() -> None:
    dice = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        assets = Assets(root / "assets")
        assets.make()
        for _ in progress(range(KILLS), desc="kills", unit="kill"):
            process, before = start(assets, root / "killed"), newest(root / "killed")
            while newest(root / "killed") <= before:
                if process.poll() is not None:
                    raise UserError(f"the training ended by itself with status {process.returncode}")
                time.sleep(0.01)
            time.sleep(dice.uniform(0, 1))
            print(f"killed after step {newest(root / 'killed')}")
            kill_all(process)
        ends = []
        for name in ("killed", "whole"):
            status = start(assets, root / name).wait()
            if status:
                raise UserError(f"the training in {name} ended with status {status}")
            ends.append(load_checkpoint(root / name / "checkpoints" / f"{STEPS:07d}.pt"))
        for key in ("model", "optimizer", "sampler", "rng"):
            if not same(ends[0][key], ends[1][key]):
                raise UserError(f"{key} differs from that of the run that was never killed")
    print(f"{KILLS} kills in {STEPS} steps: weights, optimizer, data position and random states are the same")


if __name__ == "__main__":
    run_command(main)
