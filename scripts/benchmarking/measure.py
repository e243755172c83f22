"""Time, memory and rates of two ways to do one thing, measured in turn."""

from __future__ import annotations

import statistics
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from runtime.logging import progress

Run = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class Spread:
    """Repeated measurements: the median to quote, how far they lie apart, and all of them in order."""

    median: float
    low: float
    high: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = tuple(values)
        return cls(statistics.median(values), min(values), max(values), values)


@dataclass(frozen=True)
class Comparison:
    """One quantity of both sides, the smaller the better.

    Attributes:
      baseline: None if it was not measured.
      ratio: baseline / fast, of the pairs measured one after the other.
    """

    fast: Spread
    baseline: Spread | None = None
    ratio: Spread | None = None

    @classmethod
    def of(cls, fast: Iterable[float], baseline: Iterable[float] | None) -> Comparison:
        quick = Spread.of(fast)
        if baseline is None:
            return cls(quick)
        slow = Spread.of(baseline)
        return cls(quick, slow, Spread.of(b / a for a, b in zip(quick.values, slow.values, strict=True)))


class Clock:
    """Takes moments on a device without making it wait.

    On CUDA a moment is an event in the stream; the device is waited for when seconds are asked for.
    """

    def __init__(self, device: torch.device, kind: str = "wall") -> None:
        """
        Args:
          kind: "wall", or "cpu" for the processor time of this process, which leaves out what other programs
            take of a processor that they share.
        """
        self.device = device
        self._seconds = time.process_time if kind == "cpu" else time.perf_counter

    def now(self) -> float | torch.cuda.Event:
        if self.device.type != "cuda":
            return self._seconds()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
        """Seconds between two moments."""
        if isinstance(start, float):
            return end - start
        end.synchronize()
        return start.elapsed_time(end) / 1000

    def time(self, work: Callable[[], object]) -> float:
        """Seconds of one call, its work on the device included."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        start = self.now()
        work()
        return self.seconds(start, self.now())


@dataclass(frozen=True)
class Measured:
    """What several sides measured in turn: side → quantity → values."""

    values: dict[str, dict[str, list[float]]]

    def compare(self, quantity: str, fast: str = "fast", baseline: str = "slow") -> Comparison:
        """The sides of these names; without a baseline if that side was left out."""
        slow = self.values.get(baseline, {}).get(quantity)
        return Comparison.of(self.values[fast][quantity], slow)

    def spread(self, side: str, quantity: str) -> Spread:
        return Spread.of(self.values[side][quantity])


def in_turn(sides: dict[str, Run | None], repeats: int, name: str, *, warm: bool = False) -> Measured:
    """Runs all sides once, then all once more, and so on: a machine that slows down slows all.

    Args:
      sides: each does its work once and returns what it measured, by name; None leaves a side out.
      repeats: counted runs of each.
      name: of the progress bar.
      warm: the sides have run before; otherwise each runs once uncounted.
    """
    runs = {side: run for side, run in sides.items() if run is not None}
    values: dict[str, dict[str, list[float]]] = {side: defaultdict(list) for side in runs}
    with progress(total=(repeats + (not warm)) * len(runs), desc=name, unit="run") as bar:
        for repeat in range(warm, repeats + 1):
            for side, run in runs.items():
                for quantity, value in run().items():
                    if repeat:
                        values[side][quantity].append(value)
                bar.update()
    return Measured(values)


class PeakMemory:
    """The most bytes that tensors took at a time, above those that were there at the start.

        with PeakMemory(device) as memory:
            work()
        memory.peak

    On CUDA it is the allocator's own count. Elsewhere every operation's new tensors are counted from birth to
    death; what an operation needs only inside itself is not seen.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._counter = None if device.type == "cuda" else _LiveBytes()
        self._start = 0

    def __enter__(self) -> PeakMemory:
        if self._counter is not None:
            self._counter.__enter__()
        self.restart()
        return self

    def __exit__(self, *error) -> None:
        if self._counter is not None:
            self._counter.__exit__(*error)

    def restart(self) -> None:
        """Counts from here on."""
        if self._counter is not None:
            self._start = self._counter.peak = self._counter.live
        else:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._start = torch.cuda.memory_allocated(self.device)

    @property
    def peak(self) -> int:
        peak = torch.cuda.max_memory_allocated(self.device) if self._counter is None else self._counter.peak
        return peak - self._start


class _LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operations made and that still exist."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:  # operations made of others are looked into, as autograd would
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        result = func(*args, **kwargs)
        given = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            if storage._cdata not in given and storage._cdata not in self._known:
                self._known[storage._cdata] = storage.nbytes()
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._forget, storage._cdata).atexit = False
        return result

    def _forget(self, key: int) -> None:
        self.live -= self._known.pop(key)


def _storages(tree: object) -> list[torch.UntypedStorage]:
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return [tensor.untyped_storage() for tensor in tensors if not tensor.is_mkldnn]  # those are weights


def head_memory(device: torch.device, norm: nn.Module, work: Callable[[], object]) -> int:
    """Peak bytes from the last norm on: what scoring, choosing or the loss take above the trunk.

    In a backward pass it is counted until the gradient has passed the norm again, before the trunk's own.
    """
    peaks: list[int] = []
    calls: list[None] = []

    def start(_module, _inputs) -> None:
        if not calls:
            memory.restart()
        calls.append(None)

    def stop(_module, _given, _gradients) -> None:
        peaks.append(memory.peak)

    hooks = norm.register_forward_pre_hook(start), norm.register_full_backward_hook(stop)
    try:
        with PeakMemory(device) as memory:
            work()
            peaks = peaks or [memory.peak]
    finally:
        for hook in hooks:
            hook.remove()
    assert calls, "the work never came to the norm"
    return max(peaks)


def bytes_of(batch: object) -> int:
    """Bytes of all tensors in a batch: lists, tuples and objects with fields are looked into."""
    if isinstance(batch, Tensor):
        return batch.nbytes
    if isinstance(batch, dict):
        return sum(map(bytes_of, batch.values()))
    if isinstance(batch, list | tuple):
        return sum(map(bytes_of, batch))
    return sum(map(bytes_of, vars(batch).values())) if hasattr(batch, "__dict__") else 0
