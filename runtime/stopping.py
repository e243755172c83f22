"""Stopping on a signal: the step in hand is finished on all ranks, saved, and the process ends as stopped."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, NoReturn

import torch
from torch import Tensor

from runtime.distributed import Distributed, end_with_parent
from runtime.logging import get_logger

log = get_logger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
WORKER_GRACE = 20  # seconds


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
        if hasattr(signal, "SIGCHLD"):
            # By it a loader tells of processes that have died: no error from now on.
            self._before.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_DFL))

    def heard_by(self, ranks: Distributed) -> Tensor:
        """How many ranks have received one, on the device; all must ask."""
        heard = torch.tensor(int(self.received > 0)).to(ranks.device, non_blocking=True)
        return ranks.all_reduce_sum(heard)

    def end_run(self, step: int) -> NoReturn:
        """Ends a training that has saved its state after a step."""
        log.warning("stopped by a signal at step %d; --auto-resume goes on from there", step)
        raise SystemExit(self.exit_status())

    def exit_status(self) -> int:
        """128 + the signal's number, as shells have it; SIGTERM's on a rank that only heard of it."""
        return 128 + (self.received or signal.SIGTERM)


def leave_signals_to_the_trainer(worker: int) -> None:
    """For `DataLoader(worker_init_fn=…)`: Ctrl-C and batch systems signal the loader's processes too.

    A loader's process outlives SIGTERM by what a last step and its saving may take, then ends: a trainer that
    dies ends its processes with SIGTERM and waits for them. It ends as one that failed, which a trainer that
    has had no signal is told at once: it would wait for ever for the rest of a batch that was half handed
    over. A trainer that is killed cannot end them, and they would wait for ever to hand over their last
    batches, so the kernel does.
    """
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "SIGALRM"):  # Windows has no such signals
        return
    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(1))
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(WORKER_GRACE))


class Loading:
    """A loader's batches; its processes end when this is left, whatever went wrong."""

    def __init__(self, loader: Iterable) -> None:
        self._batches: Iterator | None = iter(loader)

    def next(self) -> Any:
        return next(self._batches)

    def __enter__(self) -> Loading:
        return self

    def __exit__(self, *_) -> None:
        self._batches = None  # the only reference: a traceback that held one would keep the processes


class LateReading:
    """Reads a number of each step: at once, but on a CUDA GPU that of the step before, without waiting."""

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None

    def read(self, number: Tensor) -> int:
        """The value of `number`, a single integer, or of the one handed in before it; 0 before the first."""
        if number.device.type != "cuda":
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
