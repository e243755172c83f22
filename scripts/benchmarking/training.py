"""Forward and backward passes of both training stages, from a loader's batch to the gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import scripts.benchmarking.project as project
from autoregressive.models.config import GPT_MODELS
from autoregressive.models.flops import training_flops
from autoregressive.models.gpt import Transformer
from runtime.devices import autocast
from scripts.benchmarking.baseline import SlowTransformer
from scripts.benchmarking.baseline_data import SlowSample
from scripts.benchmarking.cases import (
    Edits,
    fast_batch,
    fast_t2i_batch,
    random_edits,
    share_of_cells,
    slow_batch,
)
from scripts.benchmarking.limits import editing_slots
from scripts.benchmarking.measure import Comparison, PeakMemory, head_memory, in_turn
from scripts.benchmarking.rows import Bench

CPU_SHARES = (0.1, 0.5)  # of the cells: 26 and 128 at 256 px
CPU_LAYERS = 12
GPU_SAMPLES = 16  # 10 to 40 % of the cells, 25 % on average
INPUT_SAMPLES = 32


def training_rows(bench: Bench) -> None:
    """Time and memory of a step, and memory of the loss head, at the sizes of whole edits."""
    layers = GPT_MODELS[bench.model].n_layer
    layers = layers if bench.on_gpu else min(layers, CPU_LAYERS)
    shares = torch.linspace(0.1, 0.4, GPU_SAMPLES).tolist() if bench.on_gpu else CPU_SHARES
    for size in bench.edit_sizes:
        model = project.build_model(
            bench.scale, bench.model, size, bench.device, torch.float32, n_layer=layers
        ).train()
        twin = project.build_twin(model)
        _inputs(bench, size, model)
        for stage in (2, 1):
            case = Case.build(bench, size, (model, twin), stage, shares)
            _time(bench, case)
            _memory(bench, case)
        for share in (1.0, 0.25):
            _loss_head(bench, share, Case.build(bench, size, (model, twin), 2, [share] * len(shares)))


@dataclass(frozen=True)
class Case:
    """One batch, and one forward and backward pass over it by each side.

    Attributes:
      edits: for stage 1 their sources are the images.
      stage: 1 or 2.
      precision: of the autocast; "none" on a CPU.
      timed: computes the project's loss, compiled if that was asked for.
      fast, slow: compute the losses, not compiled: memory is counted inside.
    """

    size: int
    model: Transformer
    twin: SlowTransformer
    edits: Edits
    stage: int
    precision: str
    timed: Callable[[], Tensor]
    fast: Callable[[], Tensor]
    slow: Callable[[], Tensor]

    @classmethod
    def build(
        cls,
        bench: Bench,
        size: int,
        networks: tuple[Transformer, SlowTransformer],
        stage: int,
        shares: Sequence[float],
    ) -> Case:
        model, twin = networks
        precision = "bf16" if bench.on_gpu else "none"
        edits = random_edits(bench.scale, size, [share_of_cells(bench.scale, size, s) for s in shares])
        target = edits.source.roll(1, dims=0)
        make_inputs = project.make_training_inputs(model, editing=stage == 2)
        fast = fast_batch(edits, target) if stage == 2 else fast_t2i_batch(edits)
        slow = slow_batch(edits, target) if stage == 2 else slow_batch(edits, edits.source, num_rasters=0)
        plain = project.training_network(model)
        network = project.training_network(model, compiled=True) if bench.compile else plain
        return cls(
            size,
            model,
            twin,
            edits,
            stage,
            precision,
            lambda: project.training_loss(network, make_inputs, fast, precision),
            lambda: project.training_loss(plain, make_inputs, fast, precision),
            lambda: slow_loss(twin, slow, precision, editing=stage == 2),
        )

    @property
    def dtype(self) -> str:
        return "fp32" if self.precision == "none" else self.precision

    def flops(self) -> float:
        """Useful operations of the batch: no padding, and every sample's own edited cells."""
        config, total = self.model.config, 0.0
        for edited, text in zip(self.edits.counts(), self.edits.texts, strict=True):
            tokens = len(text.valid)
            slots, predicted = editing_slots(config, tokens, edited), edited
            if self.stage == 1:
                slots, predicted = tokens + config.block_size - 1, config.block_size
            total += training_flops(config, slots, predicted, tokens)
        return total

    def setting(self) -> str:
        counts = self.edits.counts()
        cells = f"{min(counts)} {'and' if len(counts) == 2 else 'to'} {max(counts)} cells"
        words = [self.dtype, f"{self.model.config.n_layer} layers", f"{len(counts)} samples"]
        return ", ".join([*words, cells] if self.stage == 2 else words)


def slow_loss(twin: SlowTransformer, batch: SlowSample, precision: str, *, editing: bool) -> Tensor:
    """The twin's mean loss of a batch of the slow loader, with codes in the place of pixels."""
    device = twin.output.weight.device
    batch = SlowSample(*(part.to(device, non_blocking=True) for part in batch))
    edit = {}
    if editing:
        raster_mask = batch.weight.gather(1, batch.orders.argsort(dim=-1)).bool()
        edit = {"source": batch.source, "edit_mask": raster_mask}
    text = batch.text[:, 0]
    with autocast(device, precision):
        return twin.training_loss(text, batch.image, batch.orders, batch.weight, batch.mask, **edit)


def _time(bench: Bench, case: Case) -> None:
    def timed(loss: Callable[[], Tensor]) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            case.model.zero_grad(set_to_none=True)  # of both sides: the weights are shared
            return {"step": bench.clock.time(lambda: loss().backward())}

        return run

    sides = {"fast": timed(case.timed), "slow": bench.slow(timed(case.slow))}
    name = f"training step, stage {case.stage}"
    measured = in_turn(sides, bench.repeats, f"{name}, {case.size} px")
    floor = case.flops() / bench.limits.matrix[case.dtype], f"{case.dtype} matrix rate"
    bench.add("train", name, case.size, case.setting(), measured.compare("step"), floor=floor)


def _inputs(bench: Bench, size: int, model: Transformer) -> None:
    """What is left for the training thread of making inputs, beside making all of them there."""
    share = share_of_cells(bench.scale, size, 0.25)
    edits = random_edits(bench.scale, size, [share] * (4 if bench.quick else INPUT_SAMPLES))
    batch = fast_batch(edits, edits.source.roll(1, dims=0))
    inputs = project.make_training_inputs(model, editing=True)
    prepare = inputs.preparation()
    prepared = prepare(batch, 0)
    sides = {
        "fast": lambda: {"time": bench.clock.time(lambda: inputs.finish(prepared))},
        "slow": bench.slow(lambda: {"time": bench.clock.time(lambda: inputs.finish(prepare(batch, 0)))}),
    }
    measured = in_turn(sides, bench.repeats, f"inputs, {size} px")
    setting = f"{len(edits)} samples, against making all of it there"
    bench.add("train", "inputs, on the training thread", size, setting, measured.compare("time"))


def _memory(bench: Bench, case: Case) -> None:
    slow = [_peak(bench, case, case.slow)] if bench.baseline else None
    compared = Comparison.of([_peak(bench, case, case.fast)], slow)
    what = f"training step, stage {case.stage}, memory"
    bench.add("train", what, case.size, f"{case.setting()}, above the weights", compared, unit="B")


def _peak(bench: Bench, case: Case, loss: Callable[[], Tensor]) -> int:
    case.model.zero_grad(set_to_none=True)
    with PeakMemory(bench.device) as memory:
        loss().backward()
    return memory.peak


def _loss_head(bench: Bench, share: float, case: Case) -> None:
    peaks = [head_memory(bench.device, case.model.norm, lambda: case.fast().backward())]
    baseline = None
    if bench.baseline:
        baseline = [head_memory(bench.device, case.twin.norm, lambda: case.slow().backward())]
    what = "all cells" if share == 1 else f"{100 * share:.0f} % of the cells"
    setting = f"{case.dtype}, {len(case.edits)} samples, last norm and back"
    compared = Comparison.of(peaks, baseline)
    bench.add("train", f"loss head, {what}, memory", case.size, setting, compared, unit="B")
