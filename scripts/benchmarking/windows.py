"""Windows, weights of 8 bits and the queue, each against what the project does without."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import scripts.benchmarking.project as project
from autoregressive.decoding.batch import Batch
from autoregressive.decoding.engine import Engine
from autoregressive.editing.edit_queue import EditQueue
from autoregressive.editing.pipeline import EditingPipeline
from scripts.benchmarking.cases import Edits, random_edits, share_of_cells
from scripts.benchmarking.limits import DTYPES
from scripts.benchmarking.measure import Comparison, in_turn
from scripts.benchmarking.rows import Bench

TRACE = Path(__file__).with_name("acceptance.json")
"""Of the shipped editor, by `scripts/checks/measure_passes.py --trace-path`."""
WINDOWS = (4, 8, 16)
NUM_REQUESTS = 32
LANES = 8


class ReplayingEngine(Engine):
    """Accepts as many guesses a pass as a trained model did, whatever random weights draw."""

    def __init__(self, model: torch.nn.Module, settled: Sequence[int]) -> None:
        super().__init__(model)
        self.settled = settled

    @contextmanager
    def batch(self, *sizes: Any) -> Iterator[Batch]:
        """As `Engine.batch`, for one row."""
        replayed = cycle(self.settled)
        with super().batch(*sizes) as batch:
            batch._num_right = lambda drawn, guesses: torch.full_like(drawn[:, 0], next(replayed) - 1)
            yield batch


@dataclass(frozen=True)
class Request:
    """What `EditingPipeline.edit` is asked for."""

    image: Image.Image
    words: str
    mask: np.ndarray
    seed: int


def window_rows(bench: Bench) -> None:
    """The group "windows"."""
    _replayed(bench)
    _shipped(bench)
    if not bench.on_gpu:
        _int8(bench)


def _replayed(bench: Bench) -> None:
    """Edits of a quarter of the cells at this model's size."""
    trace, size, dtype = json.loads(TRACE.read_text()), bench.edit_sizes[0], bench.edit_dtype
    model = project.build_model(bench.scale, bench.model, size, bench.device, DTYPES[dtype])
    engine = project.build_engine(model, compiled=bench.compile)
    edits = random_edits(bench.scale, size, [share_of_cells(bench.scale, size, 0.25)])
    plain = replace(project.SAMPLING, cfg_scale=1.0)
    sides: dict[str, Callable[[], dict[str, float]] | None] = {
        "1": lambda: _seconds(bench, lambda: project.edit(engine, edits, plain))
    }
    for window in WINDOWS:
        replaying = ReplayingEngine(model, trace[str(window)])
        replaying._step = engine._step
        how = replace(plain, window=window)
        sides[str(window)] = lambda e=replaying, how=how: _seconds(bench, lambda: project.edit(e, edits, how))
    measured = in_turn(sides, bench.repeats, f"edit of 25%, windows, {size} px, {dtype}")
    for window in WINDOWS:
        a_pass = np.mean(trace[str(window)])
        words = f"{dtype}, no guidance, {a_pass:.1f} codes a pass replayed, against window 1"
        compared = measured.compare("whole", fast=str(window), baseline="1")
        bench.add("windows", f"edit of 25 %, window {window}", size, words, compared)


def _seconds(bench: Bench, work: Callable[[], object]) -> dict[str, float]:
    return {"whole": bench.clock.time(work)}


def _shipped(bench: Bench) -> None:
    """The shipped editor: one edit after the other, in both ways, and all at once through a queue."""
    pipeline = EditingPipeline.from_pretrained("shapes", device=bench.device)
    asked = requests(pipeline, 4 if bench.quick else NUM_REQUESTS)
    windowed = pipeline.defaults.sampling
    plain = replace(windowed, window=1)

    def in_a_row(sampling: project.Sampling) -> None:
        for request in asked:
            pipeline.edit(request.image, request.words, request.mask, seeds=request.seed, sampling=sampling)

    def queued() -> None:
        with EditQueue(pipeline, max_lanes=LANES) as edits:
            futures = [edits.submit(r.image, r.words, r.mask, seeds=r.seed) for r in asked]
            for future in futures:
                future.result()

    sides = {
        "1": lambda: _seconds(bench, lambda: in_a_row(plain)),
        "window": lambda: _seconds(bench, lambda: in_a_row(windowed)),
        "queue": lambda: _seconds(bench, queued),
    }
    measured = in_turn(sides, bench.repeats, f"{len(asked)} requests, shipped editor")
    size, words = pipeline.image_size, f"regions of 5 to 100 %, {len(asked)} edits, image to image"
    for what, fast, baseline, against in (
        ("shipped editor, whole edits", "window", "1", "a pass a cell"),
        (f"{NUM_REQUESTS} mixed requests, queue", "queue", "1", "one after the other, a pass a cell"),
        ("the same, queue", "queue", "window", "one after the other, with windows"),
    ):
        setting = f"{words}, against {against}"
        bench.add("windows", what, size, setting, measured.compare("whole", fast=fast, baseline=baseline))


def requests(pipeline: EditingPipeline, number: int) -> list[Request]:
    """Edits of the scene in assets with square regions of 5 to 100 % of the picture, mixed."""
    with Image.open("assets/scene.png") as opened:
        image = opened.convert("RGB").resize((pipeline.image_size,) * 2)
    shares = np.random.default_rng(0).permutation(np.linspace(0.05, 1, number))
    asked = []
    for seed, share in enumerate(shares):
        side = max(round(pipeline.image_size * float(share) ** 0.5), 1)
        mask = np.zeros((pipeline.image_size,) * 2, bool)
        mask[:side, -side:] = True
        asked.append(Request(image, "turn the large blue star into a circle", mask, seed))
    return asked


def _int8(bench: Bench) -> None:
    """Decoding steps with weights of 8 bits against those of each type, and what the weights take."""
    size = bench.edit_sizes[0]
    edits = random_edits(bench.scale, size, [min(25, share_of_cells(bench.scale, size, 1))])
    for dtype in bench.dtypes:
        models = [
            project.build_model(bench.scale, bench.model, size, bench.device, DTYPES[name])
            for name in ("fp32", dtype)
        ]
        memory = Comparison.of(_linear_bytes(models[0], 1), _linear_bytes(models[1]))
        small, full = Engine(models[0]), project.build_engine(models[1], compiled=False)
        small.quantize()
        sides = {
            "fast": lambda e=small: _step(bench, e, edits),
            "slow": lambda e=full: _step(bench, e, edits),
        }
        measured = in_turn(sides, bench.repeats, f"int8, {size} px, against {dtype}")
        words = f"batch 1, guidance, against {dtype}"
        bench.add("windows", "decode step int8", size, words, measured.compare("step"))
        bench.add("windows", "prefill int8", size, words, measured.compare("prefill"))
        bench.add("windows", "linear weights int8, memory", size, f"against {dtype}", memory, unit="B")


def _linear_bytes(model: torch.nn.Module, itemsize: int | None = None) -> list[float]:
    linears = [layer.weight for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    return [float(sum(weight.numel() * (itemsize or weight.itemsize) for weight in linears))]


def _step(bench: Bench, engine: Engine, edits: Edits) -> dict[str, float]:
    moments = [bench.clock.now()]
    project.edit(engine, edits, project.SAMPLING, lambda _event: moments.append(bench.clock.now()))
    seconds = [bench.clock.seconds(a, b) for a, b in zip(moments, moments[1:], strict=False)]
    return {"prefill": seconds[0], "step": float(np.median(seconds[1:]))}
