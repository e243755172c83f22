"""Stopping on a signal: the step in hand is finished on all ranks, saved, and the process ends as stopped."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import torch
from torch import Tensor

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """While it is entered, SIGTERM and SIGINT only leave a note: `received` is the last one's number, or 0.

    Entered in another thread than the main one, which gets no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def exit_status(self) -> int:
        """128 + the signal's number, as shells have it; SIGTERM's on a rank that only heard of it."""
        return 128 + (self.received or signal.SIGTERM)


def leave_signals_to_the_trainer(worker: int) -> None:
    """For `DataLoader(worker_init_fn=…)`: Ctrl-C and batch systems signal the loader's processes too."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class LateReading:
    """Reads a number of each step: at once on a CPU, on a GPU that of the step before, without waiting."""

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None

    def read(self, number: Tensor) -> int:
        """The value of `number`, a single integer, or of the one handed in before it; 0 before the first."""
        if number.device.type == "cpu":
            return int(number)
        copy = torch.empty(number.shape, dtype=number.dtype, pin_memory=True)
        copy.copy_(number, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        last, self._pending = self._pending, (copy, event)
        if last is None:
            return 0
        last[1].synchronize()
        return int(last[0])
