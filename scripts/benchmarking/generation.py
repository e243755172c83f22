"""Prefill, decoding and whole edits, with guidance as the published commands use it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

import scripts.benchmarking.project as project
from autoregressive.decoding.engine import Engine
from autoregressive.models.flops import forward_flops
from autoregressive.models.gpt import Transformer
from scripts.benchmarking.baseline import SlowTransformer
from scripts.benchmarking.baseline_data import pad_text
from scripts.benchmarking.baseline_edit import sample, slow_edit
from scripts.benchmarking.cases import Edits, random_edits, share_of_cells
from scripts.benchmarking.limits import DTYPES, decode_bytes
from scripts.benchmarking.measure import Clock, Comparison, PeakMemory, Spread, head_memory, in_turn
from scripts.benchmarking.rows import Bench

ROWS = 2  # of one edit: with the caption and without
STEPS = 24  # decoding steps of which the median is taken
SHARES = (0.1, 0.25, 0.5, 1.0)  # of the cells, for the latency
BATCHES = (1, 4, 8)
SAMPLES = 8  # of one prompt
RESOLUTIONS = (128, 256, 384, 512)
MEMORY_CODES = 8  # new codes where memory is measured


@dataclass(frozen=True)
class Pair:
    """One network with both ways to run it."""

    engine: Engine
    twin: SlowTransformer
    clock: Clock

    @property
    def model(self) -> Transformer:
        return self.engine.model

    @classmethod
    def build(cls, bench: Bench, size: int, dtype: str, *, timed: bool = True) -> Pair:
        model = project.build_model(bench.scale, bench.model, size, bench.device, DTYPES[dtype])
        twin = project.build_twin(model)
        engine = project.build_engine(model, compiled=bench.compile) if timed else Engine(model)
        return cls(engine, twin, bench.clock)

    def fast(self, edits: Edits) -> list[float]:
        """Seconds from the start to each code."""
        moments = [self.clock.now()]
        project.edit(self.engine, edits, project.SAMPLING, lambda _event: moments.append(self.clock.now()))
        return [self.clock.seconds(moments[0], moment) for moment in moments[1:]]

    def slow(self, edits: Edits) -> tuple[float, list[float]]:
        """Seconds of the caches' set-up, and from then on to each code."""
        weight = self.twin.output.weight
        text, text_mask = pad_text(edits.texts[0].embeddings[None])
        moments = [self.clock.now()]
        slow_edit(
            self.twin,
            edits.source.to(weight.device),
            edits.edit_mask.to(weight.device),
            text.to(weight),
            text_mask[None].bool().to(weight.device),
            sample,
            scale=project.SAMPLING.cfg_scale,
            on_event=lambda _event: moments.append(self.clock.now()),
        )
        seconds = [self.clock.seconds(moments[0], moment) for moment in moments[1:]]
        return seconds[0], [moment - seconds[0] for moment in seconds[1:]]


def generation_rows(bench: Bench, groups: set[str]) -> None:
    """The groups "prefill" and "decode", of the same runs where both are asked for."""
    for size in bench.image_sizes:
        for dtype in bench.dtypes:
            first = size == bench.image_sizes[0]
            both = len(bench.dtypes) > 1 and not bench.on_gpu
            if both and dtype == "bf16" and not (first and "decode" in groups):
                continue  # on a CPU it is judged by its decoding at one size, and by its prefill below
            _stage_rows(bench, groups, size, dtype)
    if "prefill" in groups and {"fp32", "bf16"} <= set(bench.dtypes) and bench.baseline:
        _half_precision_prefill(bench, bench.image_sizes[0])


def _stage_rows(bench: Bench, groups: set[str], size: int, dtype: str) -> None:
    pair = Pair.build(bench, size, dtype)
    config, steps = pair.model.config, STEPS if "decode" in groups else 0
    edits = random_edits(bench.scale, size, [min(steps + 1, config.block_size)])
    slots = len(edits.texts[0].valid) + 2 * config.block_size
    new = edits.counts()[0]

    def fast() -> dict[str, float]:
        caches = bench.clock.time(lambda: project.set_up_caches(pair.engine, ROWS, slots + new - 1))
        return {"caches": caches, **_stages(pair.fast(edits))}

    def slow() -> dict[str, float]:
        caches, seconds = pair.slow(edits)
        return {"caches": caches, **_stages(seconds)}

    name = f"generation, {size} px, {dtype}"
    measured = in_turn({"fast": fast, "slow": bench.slow(slow)}, bench.repeats, name)
    setting = "batch 1, guidance"
    if "prefill" in groups:
        flops = ROWS * forward_flops(config, slots, 1, len(edits.texts[0].valid))
        floor = flops / bench.limits.matrix[dtype], f"{dtype} matrix rate"
        words = f"{setting}, the baseline's cache set-up left out"
        bench.add("prefill", f"prefill {dtype}", size, words, measured.compare("prefill"), floor=floor)
        bench.add("prefill", "cache set-up", size, f"{dtype}, repeated edits", measured.compare("caches"))
        if dtype == bench.dtypes[0] and size in bench.edit_sizes:
            _head_memory(bench, pair, size, dtype)
    if "decode" in groups:
        bytes_read = decode_bytes(config, DTYPES[dtype], slots + new / 2, ROWS)
        floor = bytes_read / bench.limits.bandwidth, "bandwidth"
        bench.add("decode", f"decode step {dtype}", size, setting, measured.compare("step"), floor=floor)


def _stages(seconds: list[float]) -> dict[str, float]:
    steps = [after - before for before, after in zip(seconds, seconds[1:], strict=False)]
    return {"prefill": seconds[0], **({"step": statistics.median(steps)} if steps else {})}


def _half_precision_prefill(bench: Bench, size: int) -> None:
    half, full = (Pair.build(bench, size, dtype) for dtype in ("bf16", "fp32"))
    edits = random_edits(bench.scale, size, [1])
    sides = {"fast": lambda: _stages(half.fast(edits)), "slow": lambda: _stages(full.slow(edits)[1])}
    measured = in_turn(sides, bench.repeats, f"prefill, {size} px, bf16 against fp32")
    has_amx = bench.on_gpu or "amx_bf16" in bench.machine["matrix_instructions"]
    setting = "batch 1, guidance" + ("" if has_amx else "; the target supposes AMX, which is not here")
    what = "prefill bf16 against fp32"
    bench.add("prefill", what, size, setting, measured.compare("prefill"), judged=has_amx)


def _head_memory(bench: Bench, pair: Pair, size: int, dtype: str) -> None:
    edits = random_edits(bench.scale, size, [1])
    fast = head_memory(bench.device, pair.model.norm, lambda: pair.fast(edits))
    slow = [head_memory(bench.device, pair.twin.norm, lambda: pair.slow(edits))] if bench.baseline else None
    setting = f"{dtype}, last norm to first code"
    bench.add("prefill", "prefill head, memory", size, setting, Comparison.of([fast], slow), unit="B")


def edit_rows(bench: Bench) -> None:
    """Whole edits: latency against mask size, throughput against batch, memory against resolution."""
    for size in bench.edit_sizes:
        pair = Pair.build(bench, size, bench.edit_dtype)
        _latency(bench, pair, size)
        _image_to_image(bench, pair, size)
        _throughput(bench, pair, size)
        _samples_of_one(bench, pair, size)
    _memory(bench)


def _latency(bench: Bench, pair: Pair, size: int) -> None:
    measured = {}
    for share in SHARES:
        edits = random_edits(bench.scale, size, [share_of_cells(bench.scale, size, share)])
        sides = {
            "fast": lambda e=edits: _whole(*_with_start(pair.fast(e))),
            "slow": bench.slow(lambda e=edits: _whole(*pair.slow(e))),
        }
        name = f"edit of {share:.0%}, {size} px, {bench.edit_dtype}"
        measured[share] = in_turn(sides, bench.repeats, name, warm=share != SHARES[0])
        compared = measured[share].compare("whole")
        bench.add("edit", f"edit of {100 * share:.0f} %, codes to codes", size, bench.edit_dtype, compared)
    decoding = [measured[share].values["fast"]["decode"] for share in (SHARES[0], SHARES[-1])]
    what = f"decoding {100 * SHARES[0]:.0f} % against all cells"
    bench.add("edit", what, size, f"{bench.edit_dtype}, the project alone", Comparison.of(*decoding))
    series = {
        f"{side}, {quantity}": [measured[share].spread(side, quantity) for share in SHARES]
        for side in ("fast", "slow")[: 1 + bench.baseline]
        for quantity in ("whole", "decode")
    }
    bench.add_curve(f"latency_{size}", f"{size} px, {bench.edit_dtype}", [100 * s for s in SHARES], series)


def _with_start(seconds: list[float]) -> tuple[float, list[float]]:
    return 0.0, seconds


def _whole(before: float, seconds: list[float]) -> dict[str, float]:
    return {"whole": before + seconds[-1], "decode": seconds[-1] - seconds[0]}


def _image_to_image(bench: Bench, pair: Pair, size: int) -> None:
    pipeline = project.build_pipeline(pair.model, bench.scale, small=bench.quick)
    text = random_edits(bench.scale, size, [1]).texts[0]

    def run() -> dict[str, float]:
        return {"whole": bench.clock.time(lambda: project.edit_image(pipeline, text))}

    measured = in_turn({"fast": run}, bench.repeats, f"edit of 25%, {size} px, images")
    bench.add("edit", "edit of 25 %, image to image", size, bench.edit_dtype, measured.compare("whole"))


def _throughput(bench: Bench, pair: Pair, size: int) -> None:
    """Batches of different masks, 10 to 40 % of the cells, 25 % on average."""
    dtype = bench.edit_dtype
    batches: dict[int, Edits] = {}
    for batch in BATCHES:
        shares = [0.25] if batch == 1 else torch.linspace(0.1, 0.4, batch).tolist()
        counts = [share_of_cells(bench.scale, size, share) for share in shares]
        batches[batch] = random_edits(bench.scale, size, counts)
    sides: dict[str, Callable | None] = {
        str(batch): lambda e=edits: _per_code(sum(e.counts()), *_with_start(pair.fast(e)))
        for batch, edits in batches.items()
    }
    sides["slow"] = bench.slow(lambda: _per_code(batches[1].counts()[0], *pair.slow(batches[1])))
    measured = in_turn(sides, bench.repeats, f"batches up to {BATCHES[-1]}, {size} px, {dtype}", warm=True)
    setting = f"{dtype}, masks of 10 to 40 %, against a batch of 1"
    for quantity, words in {"decode": "decoding per token", "whole": "whole edits per token"}.items():
        compared = measured.compare(quantity, fast=str(BATCHES[-1]), baseline="1")
        bench.add("edit", f"{BATCHES[-1]} masks in a batch, {words}", size, setting, compared)
    for_all = [str(batch) for batch in BATCHES]
    series = {f"fast, {q}": [measured.spread(side, q) for side in for_all] for q in ("whole", "decode")}
    if bench.baseline:
        series |= {f"slow, {q}": [measured.spread("slow", q)] * len(BATCHES) for q in ("whole", "decode")}
    bench.add_curve(f"throughput_{size}", f"{size} px, {dtype}", list(BATCHES), series)


def _samples_of_one(bench: Bench, pair: Pair, size: int) -> None:
    """Several results of one edit, with the prompt computed once and with each its own."""
    one = random_edits(bench.scale, size, [share_of_cells(bench.scale, size, SHARES[0])])
    several = one.repeated(0, SAMPLES)

    def run(edits: Edits, num_samples: int) -> dict[str, float]:
        work = partial(project.edit, pair.engine, edits, project.SAMPLING, num_samples=num_samples)
        return {"whole": bench.clock.time(work)}

    sides = {"fast": partial(run, one, SAMPLES), "slow": partial(run, several, 1)}
    measured = in_turn(sides, bench.repeats, f"{SAMPLES} samples of one edit, {size} px")
    setting = f"{bench.edit_dtype}, 10 % of the cells, against {SAMPLES} prompts"
    what = f"{SAMPLES} samples of one prompt, whole edits"
    bench.add("edit", what, size, setting, measured.compare("whole"))


def _per_code(codes: int, before: float, seconds: list[float]) -> dict[str, float]:
    return {quantity: value / codes for quantity, value in _whole(before, seconds).items()}


def _memory(bench: Bench) -> None:
    """Peak of an edit above the weights; decoding more codes adds next to nothing."""
    sizes = bench.image_sizes if bench.quick else RESOLUTIONS
    peaks: dict[str, list[Spread]] = {"fast": [], "slow": []}
    for size in sizes:
        pair = Pair.build(bench, size, bench.edit_dtype, timed=False)
        edits = random_edits(bench.scale, size, [MEMORY_CODES])
        for side, run in {"fast": pair.fast, "slow": bench.slow(pair.slow)}.items():
            if run is not None:
                with PeakMemory(bench.device) as memory:
                    run(edits)
                peaks[side].append(Spread.of([memory.peak]))
        slow = peaks["slow"][-1].values if bench.baseline else None
        compared = Comparison.of(peaks["fast"][-1].values, slow)
        setting = f"{bench.edit_dtype}, {MEMORY_CODES} cells, above the weights"
        bench.add("edit", "edit, memory", size, setting, compared, unit="B")
    series = {side: points for side, points in peaks.items() if points}
    bench.add_curve("memory", f"{bench.edit_dtype}, batch 1, guidance", list(sizes), series)
