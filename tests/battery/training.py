"""Trainings as real processes, and what they leave."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.checkpoint import load_checkpoint, require_whole
from runtime.training.checkpoints import list_checkpoints
from tests.battery.cases import Assets

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT = 900  # seconds; two ranks on a machine that others share take minutes


@dataclass(frozen=True)
class Run:
    """A training that has ended.

    Attributes:
      status: of the process that was started: the training, or torchrun.
      text: what it printed.
      folder: holds `results`, and the plan's `batches<rank>.jsonl`.
    """

    status: int | str
    text: str
    folder: Path

    @property
    def checkpoints(self) -> list[Path]:
        return list_checkpoints(self.folder / "results" / "checkpoints")

    def checkpoint(self, step: int) -> dict[str, Any]:
        """All that a resume goes on from, but for the flags."""
        (path,) = [path for path in self.checkpoints if int(path.stem) == step]
        require_whole(path, needs_manifest=True)
        content = load_checkpoint(path)
        del content["args"]
        return content

    def batches(self, rank: int = 0) -> dict[int, dict]:
        """Step → what the rank trained on then, and the hash of its weights; the last time it came there."""
        lines = (self.folder / f"batches{rank}.jsonl").read_text().splitlines()
        return {line["step"]: line for line in map(json.loads, lines)}


def run_training(
    assets: Assets,
    folder: Path,
    plan: dict,
    flags: Sequence[object] = (),
    *,
    ranks: int = 1,
    max_restarts: int | None = None,
    expect: int | None = 0,
) -> Run:
    """Trains in `folder/results`, in real processes; again in the same folder to go on.

    Args:
      plan: see `tests.battery.worker`; "log" is `folder`.
      max_restarts: of torchrun; None starts a single rank without torchrun.
      expect: the exit status; None for any but 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"log": str(folder), **plan}
    (folder / "plan.json").write_text(json.dumps(plan))
    data = assets.shapes / "train" / f"{plan['stage']}.jsonl"
    command = ["-m", "tests.battery.worker", folder / "plan.json", *assets.train_flags()]
    command += ["--data-path", data, "--results-dir", folder / "results", *flags]
    command += ["--mask_in_context"] if plan["stage"] == "editing" else []
    if ranks > 1 or max_restarts is not None:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        command = [*torchrun, f"--max-restarts={max_restarts or 0}", *command]
    with open(folder / "output.txt", "w") as output:  # not a pipe, which a process left over would hold open
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            status = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            status = "none: it hangs"
        finally:
            with contextlib.suppress(ProcessLookupError):  # its ranks, in sessions of their own, end with it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    _require_nothing_left(folder / "plan.json")
    run = Run(status, (folder / "output.txt").read_text(errors="replace"), folder)
    as_expected = status not in (0, "none: it hangs") if expect is None else status == expect
    assert as_expected, f"exit status {status}, expected {expect}:\n{run.text[-4000:]}"
    return run


def _require_nothing_left(plan: Path) -> None:
    """Fails if processes of the training outlive it: ranks, or loaders, which have their command line."""
    deadline = time.monotonic() + 10
    while left := [pid for pid in _processes() if str(plan).encode() in _command_line(pid)]:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(int(pid), signal.SIGKILL)
            raise AssertionError(f"{len(left)} processes outlived the training")
        time.sleep(0.05)


def _processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdecimal()]


def _command_line(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:  # it has just ended
        return b""
