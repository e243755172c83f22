"""Where the time of a decoding step goes, beside a plain read of the bytes that it has to read.

The parts are timed one by one and undisturbed; a profiler in the step would slow its small operations down.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

import scripts.benchmarking.project as project
from autoregressive.decoding.batch import Batch
from autoregressive.models.attention import KVCache, attention_of
from autoregressive.models.config import GPT_MODELS
from autoregressive.models.gpt import Transformer
from autoregressive.sequence.layout import SequenceLayout
from scripts.benchmarking.cases import random_edits
from scripts.benchmarking.limits import DTYPES, decode_bytes, slot_bytes
from scripts.benchmarking.measure import Clock, Comparison, in_turn
from scripts.benchmarking.rows import Bench

STEPS = 6  # in a row, of which a run is the median
MOST_READ = 512 * 2**20  # bytes; no cache holds more
STEP, PRODUCTS, ATTENTION = "whole", "matrix products", "attention over the cache"
SMALL, DRAWING = "embedding, norms and all else of the forward", "sampling"
PARTS = (PRODUCTS, ATTENTION, SMALL, DRAWING)
CALLS = "Python and dispatch, in the parts above"
NARROWEST = 4  # numbers a head


@dataclass
class Forward:
    """The forward of a batch's steps, as `Batch` calls it: how long the last one took, and on what."""

    model: Transformer
    clock: Clock
    seconds: float = 0.0
    layout: SequenceLayout | None = field(default=None, init=False)
    cache: KVCache | None = field(default=None, init=False)

    def __call__(self, layout: SequenceLayout, text: Tensor, cache: KVCache) -> Tensor:
        self.layout, self.cache = layout, cache
        start = self.clock.now()
        logits = self.model(layout, text, cache)
        self.seconds = self.clock.seconds(start, self.clock.now())
        return logits


def profile_rows(bench: Bench) -> None:
    """The group "profile"; on GPUs a step is one graph, in which none of this can be told apart."""
    if not bench.on_gpu:
        for dtype in bench.dtypes:
            _profile(bench, bench.edit_sizes[0], dtype)


@contextmanager
def _stepping(bench: Bench, size: int, dtype: str, **overrides: int) -> Iterator[tuple[Batch, Forward]]:
    """A batch of one edit of all cells, with guidance, behind its first code."""
    model = project.build_model(bench.scale, bench.model, size, bench.device, DTYPES[dtype], **overrides)
    engine = project.build_engine(model, compiled=False)
    edits = random_edits(bench.scale, size, [model.config.block_size])
    with torch.inference_mode(), project.joined(engine, edits, project.SAMPLING) as batch:
        batch._step = Forward(model, bench.clock)
        yield batch, batch._step


def parts_of_step(batch: Batch, forward: Forward, number: int) -> dict[str, float]:
    """Seconds of the batch's next steps and of their parts, medians of so many."""
    clock = forward.clock
    whole, forwards = [], []
    for _ in range(number):
        whole.append(clock.time(batch.step))
        forwards.append(forward.seconds)
    products = statistics.median(clock.time(lambda: run_products(forward)) for _ in range(number))
    attention = statistics.median(clock.time(lambda: run_attention(forward)) for _ in range(number))
    step, inside = statistics.median(whole), statistics.median(forwards)
    rest = max(inside - products - attention, 0.0)
    return {STEP: step, PRODUCTS: products, ATTENTION: attention, SMALL: rest, DRAWING: step - inside}


def run_products(forward: Forward) -> None:
    """All products of a step with weights, on made-up inputs."""
    model, lanes = forward.model, len(forward.layout.cells)
    x = torch.ones(lanes, 1, model.config.dim, dtype=model.dtype)
    for layer in model.layers:
        layer.attention.wqkv(x)
        layer.attention.wo(x)
        layer.feed_forward.w3(x)
        layer.feed_forward.w2(layer.feed_forward.w1(x))
    model.output(x)


def run_attention(forward: Forward) -> None:
    """The last step's writes to the cache and looks at it, of made-up queries, keys and values."""
    config, layout = forward.model.config, forward.layout
    shape = len(layout.cells), config.n_head, 1, config.dim // config.n_head
    made_up = torch.ones(shape, dtype=forward.model.dtype)
    attend = attention_of(layout, forward.model.dtype)
    for layer in range(config.n_layer):
        attend(made_up, *forward.cache.update(layer, layout.slots, made_up, made_up), 0.0)


def _profile(bench: Bench, size: int, dtype: str) -> None:
    number, narrow = 1 if bench.quick else STEPS, NARROWEST * GPT_MODELS[bench.model].n_head
    with _stepping(bench, size, dtype) as wide, _stepping(bench, size, dtype, dim=narrow) as thin:
        config = wide[1].model.config
        weights = decode_bytes(config, DTYPES[dtype], 0, 0)
        buffer = torch.ones(min(int(weights), MOST_READ) // 4)
        sides = {
            "fast": lambda: parts_of_step(*wide, number),
            "calls": lambda: {CALLS: parts_of_step(*thin, number)[STEP]},
            "read": lambda: {"a byte": bench.clock.time(buffer.sum) / buffer.nbytes},
        }
        measured = in_turn(sides, bench.repeats, f"profile of a decoding step, {size} px, {dtype}")
        lanes = [row.first_slot + row.num_settled for row in wide[0].rows for _ in row.lanes]
        cache = sum(lanes) * slot_bytes(config, DTYPES[dtype])
    a_byte = measured.spread("read", "a byte")
    setting = f"{dtype}, batch 1, guidance"
    for name, number_read in (("weights", weights), ("keys and values", cache)):
        compared = Comparison.of([number_read], None)
        bench.add("profile", f"decode step, {name} to read", size, setting, compared, unit="B")
    every_byte = Comparison.of([value * (weights + cache) for value in a_byte.values], None)
    words = f"{dtype}, {1e-9 / a_byte.median:.3g} GB/s by a plain sum"
    bench.add("profile", "decode step, a plain read of both", size, words, every_byte)
    read = {STEP: weights + cache, PRODUCTS: weights, ATTENTION: cache}
    whole = measured.spread("fast", STEP).median
    for part in (STEP, *PARTS, CALLS):
        compared = measured.compare(part, fast="calls" if part == CALLS else "fast")
        words = setting if part == STEP else f"{dtype}, {compared.fast.median / whole:.0%} of the step"
        words += f", by a step of width {narrow}" if part == CALLS else ""
        floor = (read[part] * a_byte.median, "bandwidth") if part in read else None
        bench.add("profile", f"decode step, {part}", size, words, compared, floor=floor)
