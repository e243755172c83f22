"""Where the time of a decoding step goes, beside a plain read of the bytes that it has to read."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import scripts.benchmarking.project as project
from autoregressive.decoding.batch import Batch
from autoregressive.models.gpt import Transformer
from scripts.benchmarking.cases import random_edits
from scripts.benchmarking.limits import DTYPES, decode_bytes, slot_bytes
from scripts.benchmarking.measure import Clock, Comparison, in_turn
from scripts.benchmarking.rows import Bench, percent

STEPS = 6  # in a row, of which a run is the median
MOST_READ = 512 * 2**20  # bytes; no cache holds more
PRODUCTS, ATTENTION = "matrix products", "attention over the cache"
NORMS, ENDS, CALLS = "norms and elementwise", "embedding and sampling", "Python and dispatch"
KINDS = (PRODUCTS, ATTENTION, NORMS, ENDS, CALLS)
ATTENTION_OPERATIONS = ("bmm", "softmax", "scaled_dot_product", "index_put", "index_copy")


def profile_rows(bench: Bench) -> None:
    """The group "profile"; on GPUs a step is one graph, in which none of this can be told apart."""
    if not bench.on_gpu:
        for dtype in bench.dtypes:
            _profile(bench, bench.edit_sizes[0], dtype)


def _profile(bench: Bench, size: int, dtype: str) -> None:
    model = project.build_model(bench.scale, bench.model, size, bench.device, DTYPES[dtype])
    engine = project.build_engine(model, compiled=False)
    edits = random_edits(bench.scale, size, [model.config.block_size])
    weights = decode_bytes(model.config, DTYPES[dtype], 0, 0)
    buffer = torch.ones(min(int(weights), MOST_READ) // 4)
    number = 1 if bench.quick else STEPS
    calls: dict[str, int] = {}

    def read() -> dict[str, float]:
        return {"a byte": bench.clock.time(buffer.sum) / buffer.nbytes}

    with torch.inference_mode(), project.joined(engine, edits, project.SAMPLING) as batch:

        def step() -> dict[str, float]:
            seconds = statistics.median(bench.clock.time(batch.step) for _ in range(number))
            parts = [profiled(model, batch, bench.clock) for _ in range(number)]
            calls.update(parts[-1][1])
            kinds = {kind: statistics.median(part[0][kind] for part in parts) for kind in KINDS[:-1]}
            return {"step": seconds, **kinds, CALLS: max(seconds - sum(kinds.values()), 0.0)}

        sides = {"fast": step, "read": read}
        measured = in_turn(sides, bench.repeats, f"profile of a decoding step, {size} px, {dtype}")
        slots = max(row.first_slot + row.num_settled for row in batch.rows)
        cache = slots * slot_bytes(model.config, DTYPES[dtype]) * sum(len(row.lanes) for row in batch.rows)
    a_byte = measured.spread("read", "a byte")
    setting = f"{dtype}, batch 1, guidance"
    for name, number_read in (("weights", weights), ("keys and values", cache)):
        compared = Comparison.of([number_read], None)
        bench.add("profile", f"decode step, {name} to read", size, setting, compared, unit="B")
    every_byte = Comparison.of([value * (weights + cache) for value in a_byte.values], None)
    words = f"{dtype}, {1e-9 / a_byte.median:.3g} GB/s by a plain sum"
    bench.add("profile", "decode step, a plain read of them", size, words, every_byte)
    floors = {"step": weights + cache, PRODUCTS: weights, ATTENTION: cache}
    whole = measured.spread("fast", "step").median
    for part in ("step", *KINDS):
        compared = measured.compare(part)
        words = setting
        if part != "step":
            words = f"{dtype}, {percent(compared.fast.median / whole)} of the step"
            words += f", {calls[part]} calls"
        floor = (floors[part] * a_byte.median, "bandwidth") if part in floors else None
        what = "decode step, whole" if part == "step" else f"decode step, {part}"
        bench.add("profile", what, size, words, compared, floor=floor)


def profiled(model: Transformer, batch: Batch, clock: Clock) -> tuple[dict[str, float], dict[str, int]]:
    """One step: seconds and number of the operations of each kind.

    What a call costs that computes nothing, the median of views, is taken off every operation and is part of
    `CALLS`, as is all that happens between them; the calls of that kind are those of all operations.
    """
    with _Operations(clock) as operations, _told_where(model, operations):
        batch.step()
    nothing = statistics.median(operations.views)
    seconds = {
        kind: sum(max(second - nothing, 0.0) for second in operations.seconds[kind]) for kind in KINDS[:-1]
    }
    numbers = Counter({kind: len(operations.seconds[kind]) for kind in KINDS[:-1]})
    return seconds, {**numbers, CALLS: numbers.total() + len(operations.views)}


class _Operations(TorchDispatchMode):
    """Seconds of every operation, by the kind of its work; of views by themselves."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.in_trunk = False
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.views: list[float] = []
        self._clock = clock

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        with self:  # operations made of others are looked into
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        start = self._clock.now()
        result = func(*args, **kwargs)
        seconds = self._clock.seconds(start, self._clock.now())
        (self.views if func.is_view else self.seconds[self._kind(str(func))]).append(seconds)
        return result

    def _kind(self, operation: str) -> str:
        if "linear" in operation or "addmm" in operation or ".mm." in operation:
            return PRODUCTS
        if not self.in_trunk:
            return ENDS
        return ATTENTION if any(name in operation for name in ATTENTION_OPERATIONS) else NORMS


@contextmanager
def _told_where(model: Transformer, operations: _Operations) -> Iterator[None]:
    """`in_trunk` is True from the first layer to the last norm, within the block."""

    def enter(*_: object) -> None:
        operations.in_trunk = True

    def leave(*_: object) -> None:
        operations.in_trunk = False

    hooks = model.layers[0].register_forward_pre_hook(enter), model.norm.register_forward_hook(leave)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
