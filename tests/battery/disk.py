"""Test 10: a disk that is full, closed or gone is a clear error, and the checkpoints so far stay whole."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from runtime.training.checkpoints import newest_whole_checkpoint
from tests.battery.cases import Assets, Case
from tests.battery.training import ROOT, TIMEOUT

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2  # of <linux/prctl.h>, <linux/capability.h>
FLAGS = ["--mask_in_context", "--text-field", "instruction", "--ckpt-every", "1", "--max-steps", "6"]


def cases() -> list[Case]:
    return [
        Case("full while a checkpoint is written", _full),
        Case("a limit on a file's size", _file_limit),
        Case("no permission for the results", _no_permission),
        Case("no permission for the checkpoints", _no_permission_inside),
        Case("read-only results", _read_only),
        Case("the results' folder is a file", _folder_is_file),
        Case("the folder vanishes", _vanishes),
        Case("a link to nowhere", _dangling),
    ]


def _train(
    assets: Assets, results: Path, steps: int = 6, *, limit: int = 0, watch: str = ""
) -> tuple[int, str]:
    """A real training; its exit status and what it said.

    Args:
      limit: largest size of a file in bytes; 0 for any.
      watch: Python to run first.
    """

    def prepare() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if os.geteuid() == 0:  # nothing is closed to root, unless it gives up these
            for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
                ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)

    flags = [*assets.train_flags(), *FLAGS, "--max-steps", str(steps), "--auto-resume"]
    flags += ["--data-path", str(assets.shapes / "train" / "editing.jsonl"), "--results-dir", str(results)]
    program = "import signal, runpy, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    program += f"sys.argv = ['train_editing.py', *{flags!r}]\n{watch}\n"
    program += "runpy.run_path('autoregressive/train/train_editing.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        preexec_fn=prepare,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HOME": "/tmp"},
    )
    return done.returncode, done.stderr


def _require(status: int, said: str, *words: str, kept: Path | None = None) -> None:
    """A clear error of one line, and the newest checkpoint in `kept` is whole."""
    error = [line for line in said.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(error) == 1, f"status {status}:\n{said[-3000:]}"
    assert all(word in error[0] for word in words), f"{words} not in: {error[0]}"
    assert "Traceback" not in said, said[-3000:]
    if kept is not None:
        assert newest_whole_checkpoint(kept / "checkpoints") is not None, "no whole checkpoint is left"


def _full(assets: Assets, folder: Path) -> None:
    with _small_disk(folder / "disk", 3_000_000) as disk:
        status, said = _train(assets, disk)
        _require(status, said, "cannot write", str(disk), "free space", kept=disk)


def _file_limit(assets: Assets, folder: Path) -> None:
    results = folder / "results"
    status, said = _train(assets, results, steps=1)
    assert status == 0, said[-2000:]
    size = (results / "checkpoints" / "0000001.pt").stat().st_size
    status, said = _train(assets, results, limit=size // 2)
    _require(status, said, "cannot write", "0000002.pt", "too large", kept=results)


def _no_permission(assets: Assets, folder: Path) -> None:
    results = folder / "results"
    results.mkdir()
    with _closed(results):
        status, said = _train(assets, results)
        _require(status, said, "cannot write", str(results), "Permission denied")


def _no_permission_inside(assets: Assets, folder: Path) -> None:
    results = folder / "results"
    status, said = _train(assets, results, steps=1)
    assert status == 0, said[-2000:]
    with _closed(results / "checkpoints"):
        status, said = _train(assets, results)
        _require(status, said, "cannot write", "0000002.pt", "Permission denied", kept=results)


def _read_only(assets: Assets, folder: Path) -> None:
    with _small_disk(folder / "disk", 20_000_000) as disk:
        status, said = _train(assets, disk, steps=1)
        assert status == 0, said[-2000:]
        if not os.path.ismount(
            disk
        ):  # no right to mount here: the next best, a folder that lets nobody write
            return _no_permission(assets, _fresh(folder / "instead"))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        status, said = _train(assets, disk)
        _require(status, said, "cannot write", str(disk), "Read-only", kept=disk)


def _folder_is_file(assets: Assets, folder: Path) -> None:
    results = folder / "results"
    results.write_text("a file")
    status, said = _train(assets, results)
    _require(status, said, "cannot write", str(results))


def _vanishes(assets: Assets, folder: Path) -> None:
    """Somebody deletes the results and puts a file there while the run is on."""
    results = folder / "results"
    watch = f"""
import shutil, autoregressive.train.loop as loop
def update(*arguments, before=loop.update):
    if arguments[0].step == 2:
        shutil.move({str(results)!r}, {str(folder / "moved")!r})
        open({str(results)!r}, "w").close()
    return before(*arguments)
loop.update = update
"""
    status, said = _train(assets, results, watch=watch)
    _require(status, said, "cannot write", str(results), kept=folder / "moved")


def _dangling(assets: Assets, folder: Path) -> None:
    results = folder / "results"
    results.symlink_to(folder / "nowhere" / "at all")
    status, said = _train(assets, results)
    _require(status, said, "cannot write", str(results))


@contextlib.contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes; a plain folder where mounting is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = shutil.which("mount") and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def _closed(folder: Path) -> Iterator[None]:
    """Nobody may write into `folder`."""
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o755)


def _fresh(folder: Path) -> Path:
    folder.mkdir()
    return folder
