"""Runs a command, its output on the terminal and in a log, and watches what it takes of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_INTERVAL = 0.5  # seconds between two looks


@dataclass(frozen=True)
class ProcessUsage:
    """What a command took.

    Attributes:
      status: its exit status.
      seconds: from start to end.
      cpu_seconds: of all its processes together; tells waiting for a busy machine from work.
      memory: most bytes its processes held at a time, all together, without pages of mapped files (which the
        system takes back when it needs them); None where there is no /proc.
      disk: most bytes the work folder held at a time.
    """

    status: int
    seconds: float
    cpu_seconds: float
    memory: int | None
    disk: int


def run_watched(command: list[str], cwd: Path, log_file: Path) -> ProcessUsage:
    """Runs `command` in `cwd`; what it prints goes to the terminal and to `log_file`."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    start, cpu_before = time.monotonic(), _cpu_seconds()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    watch = _Watch(process.pid, cwd)
    try:
        with log_file.open("wb", buffering=0) as log:
            while chunk := process.stdout.read1():
                log.write(chunk)
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
        status = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        watch.stop()
    seconds = time.monotonic() - start
    return ProcessUsage(status, seconds, _cpu_seconds() - cpu_before, watch.memory, watch.disk)


def _cpu_seconds() -> float:
    """Of all processes that ended as children of this one, and of theirs."""
    times = os.times()
    return times.children_user + times.children_system


class _Watch(threading.Thread):
    """Looks at a process tree and a folder until it is stopped."""

    def __init__(self, pid: int, folder: Path) -> None:
        super().__init__(daemon=True)
        self.pid, self.folder = pid, folder
        self.memory: int | None = None
        self.disk = 0
        self._stopped = threading.Event()
        self.start()

    def run(self) -> None:
        while True:
            if (held := tree_memory(self.pid)) is not None:
                self.memory = max(self.memory or 0, held)
            self.disk = max(self.disk, folder_size(self.folder))
            if self._stopped.wait(_INTERVAL):
                return

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def tree_memory(pid: int) -> int | None:
    """Bytes of anonymous and shared memory that a process and its descendants hold; None without /proc."""
    processes = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = (line.split() for line in status.read_text().splitlines())
        except OSError:  # it ended while we looked
            continue
        fields = {words[0]: words[1] for words in lines if len(words) > 1}
        held = sum(int(fields.get(kind, 0)) for kind in ("RssAnon:", "RssShmem:"))
        processes[int(fields["Pid:"])] = int(fields["PPid:"]), held * 1024
    if not processes:
        return None
    family, grew = {pid}, True
    while grew:
        children = {child for child, (parent, _) in processes.items() if parent in family} - family
        grew = bool(children)
        family |= children
    return sum(processes[member][1] for member in family if member in processes)


def folder_size(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # it was renamed while we looked
            continue
    return total
