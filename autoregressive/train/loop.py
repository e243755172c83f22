"""The training loop of both stages: global batches, exact resume, equal results on any number of ranks."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from autoregressive.models.gpt import Transformer
from autoregressive.models.loss import SupervisedLoss
from autoregressive.train.config import TrainConfig
from autoregressive.train.inputs import Inputs, NumberedBatches, Prepared, PreparedBatches
from autoregressive.train.meter import Meter
from autoregressive.train.state import TrainState, average_weights, averaged_weights, new_state, save
from dataset.sampler import ResumableBatchSampler
from dataset.samples import collate_samples
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.optim import lr_factor
from runtime.precision import autocast
from runtime.stopping import LateReading, Loading, StopSignals, leave_signals_to_the_trainer

log = get_logger(__name__)
MAX_SKIPPED_STEPS = 10

Preview = Callable[[int], Path]


class Validate(Protocol):
    """Scores the model at some of the steps; called on all ranks."""

    def due(self, step: int) -> bool: ...

    def done(self, step: int) -> bool: ...

    def __call__(self, step: int) -> dict[str, float]: ...


def fit(
    model: Transformer,
    dataset: Dataset,
    inputs: Inputs,
    config: TrainConfig,
    ranks: Distributed,
    preview: Preview | None = None,
    validate: Validate | None = None,
) -> TrainState:
    """Trains `model` to the last step; saves at the intervals asked for and at the end.

    Args:
      model: on the rank's device.
      dataset: map-style, keyed by (index, seed).
      inputs: turns samples into what the model reads; all that differs between the stages.
      preview: draws a picture of the model's work at a step and returns its path.
      validate: scores the model's work at a step.
    """
    torch.manual_seed(config.global_seed + ranks.rank)  # of the dropouts
    sampler = make_sampler(dataset, config, ranks)
    state = new_state(model, sampler, config, ranks)
    total_steps = count_steps(config, sampler)
    if state.step >= total_steps:
        log.info("step %d is the last: nothing left to train", state.step)
    network = parallel(SupervisedLoss(model), ranks)
    if config.compile:
        network.compile(dynamic=True)  # batches have as many slots as they need
    model.train()
    warm_up(network, dataset, inputs, state, config, ranks)
    loader = _loader(PreparedBatches(dataset, inputs.preparation()), state, config, ranks)
    unsettled: list[_Unsettled] = []
    stops = LateReading()
    with (
        StopSignals() as signals,
        Meter(state, total_steps, config, ranks) as meter,
        Loading(loader) as batches,
    ):
        looks = _Looks(preview, validate, state, config, ranks, meter)
        looks.make_up()
        while state.step < total_steps:
            micro_batches = [batches.next() for _ in range(config.gradient_accumulation_steps)]
            problems = _name_bad(micro_batches)
            notes = [len(problems), int(signals.received > 0)]
            made = [inputs.finish(batch) for batch in micro_batches]
            loss, num_bad, num_stops = backward(network, made, notes, state, config, ranks)
            norm = update(state, total_steps, config)
            state.step += 1
            origins = [origin for batch in micro_batches for origin in batch.origins]
            unsettled.append(_Unsettled(norm, num_bad, origins, problems))
            last = state.step == total_steps
            epoch_ends = state.sampler.ends_epoch()
            saves = last or (epoch_ends and not config.no_epoch_save) or _due(config.ckpt_every, state.step)
            logs = last or state.step % config.log_every == 0
            stopped = stops.read(num_stops) > 0
            if saves or logs or epoch_ends or stopped:
                _settle(unsettled, state, config, ranks)
            state.sampler.advance()
            if epoch_ends:
                state.num_bad = 0
                state.bad_samples.clear()
            meter.update(loss, sum(batch.flops for batch in micro_batches))
            if logs:
                meter.line(norm)
            if saves or stopped:
                save(state, config, ranks)
            if (last or not stopped) and (looks.take(last) or saves):
                # All that took a while, and a loader's processes do not wait long after a signal.
                heard = torch.tensor(int(signals.received > 0), device=ranks.device)
                stopped = int(ranks.all_reduce_sum(heard)) > 0
                if stopped and not saves:
                    save(state, config, ranks)
            if stopped and not last:
                log.warning("stopped by a signal at step %d; --auto-resume goes on from there", state.step)
                raise SystemExit(signals.exit_status())
    return state


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


class _Looks:
    """Previews and validations, between two steps."""

    def __init__(
        self,
        preview: Preview | None,
        validate: Validate | None,
        state: TrainState,
        config: TrainConfig,
        ranks: Distributed,
        meter: Meter,
    ) -> None:
        self.preview, self.validate = preview, validate
        self.state, self.config, self.ranks, self.meter = state, config, ranks, meter

    def make_up(self) -> None:
        """Validates at a step where the run stopped before it could."""
        step, validate = self.state.step, self.validate
        if validate and step and validate.due(step) and not validate.done(step):
            self._score()

    def take(self, last: bool) -> bool:
        """Draws and scores what is due; returns whether anything was. All ranks must call it."""
        step, every = self.state.step, self.config.preview_every
        draws = self.preview is not None and (_due(every, step) or last and every > 0)
        scores = self.validate is not None and self.validate.due(step)
        if draws:
            self._draw()
        if scores:
            self._score()
        return draws or scores

    def _draw(self) -> None:
        with self.meter.paused(), averaged_weights(self.state):
            if self.ranks.is_main:
                self.meter.picture(self.preview(self.state.step))

    def _score(self) -> None:
        with self.meter.paused(), averaged_weights(self.state):
            self.meter.scores(self.validate(self.state.step))


def make_sampler(dataset: Dataset, config: TrainConfig, ranks: Distributed) -> ResumableBatchSampler:
    """Which samples come when."""
    return ResumableBatchSampler(
        len(dataset),
        config.global_batch_size,
        ranks.rank,
        ranks.world_size,
        config.global_seed,
        micro_batches=config.gradient_accumulation_steps,
        num_epochs=config.epochs,
    )


def count_steps(config: TrainConfig, sampler: ResumableBatchSampler) -> int:
    """Optimizer steps of the whole run."""
    all_steps = config.epochs * sampler.batches_per_epoch
    return min(all_steps, config.max_steps) if (config.max_steps or 0) > 0 else all_steps


def _loader(
    dataset: PreparedBatches, state: TrainState, config: TrainConfig, ranks: Distributed
) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=NumberedBatches(state.sampler, state.step, config.gradient_accumulation_steps),
        collate_fn=_as_it_is,
        num_workers=config.num_workers,
        pin_memory=ranks.device.type == "cuda",
        # Its own: starting to iterate draws a number, which must not come from the dropouts' generator.
        generator=torch.Generator(),
        worker_init_fn=leave_signals_to_the_trainer,
    )


def _as_it_is(batch: Prepared) -> Prepared:
    """The loader's default would look for tensors in it."""
    return batch


def parallel(module: nn.Module, ranks: Distributed) -> nn.Module:
    if ranks.world_size == 1:
        return module
    device_ids = [ranks.device.index] if ranks.device.type == "cuda" else None
    with (
        warnings.catch_warnings()
    ):  # torch 2.15 gives broadcast_buffers another name, which 2.10 does not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(module, device_ids=device_ids, broadcast_buffers=False)


def warm_up(
    network: nn.Module,
    dataset: Dataset,
    inputs: Inputs,
    state: TrainState,
    config: TrainConfig,
    ranks: Distributed,
) -> None:
    """One pass that is thrown away: DDP arranges its buckets anew after the first one.

    The order decides how gradients add up on three ranks and more; all steps must have the same, the first
    one after a resume too.
    """
    if ranks.world_size == 1:
        return
    with torch.random.fork_rng([ranks.device] if ranks.device.type == "cuda" else []):
        samples = [dataset[0, 0]] * state.sampler.micro_batch_size
        layout, text = inputs(collate_samples(samples), state.step)
        with autocast(ranks.device, config.mixed_precision):
            network(layout, text).backward()
    network.zero_grad()


class _Unsettled(NamedTuple):
    """What a step leaves to be judged when the device is waited for anyway."""

    norm: Tensor
    """The gradient's, the same on all ranks."""
    num_bad: Tensor
    """Unusable samples of all ranks."""
    origins: list[str]
    """This rank's samples."""
    problems: list[str]
    """What is wrong with this rank's unusable ones."""


def _settle(unsettled: list[_Unsettled], state: TrainState, config: TrainConfig, ranks: Distributed) -> None:
    """Judges the latest steps, all at once: it waits for the device.

    All ranks have the same numbers and decide alike.
    """
    steps = list(unsettled)
    unsettled.clear()
    norms = torch.stack([step.norm for step in steps]).tolist()
    new_bad = int(torch.stack([step.num_bad for step in steps]).sum())
    state.num_bad += new_bad
    if new_bad:
        found = ranks.gather_objects([problem for step in steps for problem in step.problems])
        state.bad_samples += [problem for part in found for problem in part]
    num_samples = state.sampler.num_samples
    if state.num_bad > config.bad_sample_budget * num_samples:
        raise UserError(
            f"{state.num_bad} unusable samples in this epoch, more than --bad-sample-budget "
            f"{config.bad_sample_budget} of {num_samples}; mend the data or raise it:\n  "
            + "\n  ".join(state.bad_samples)
        )
    if state.scaler.is_enabled():
        return  # it finds its scale by meeting infinities
    for number, (step, norm) in enumerate(zip(steps, norms, strict=True), start=state.step - len(steps) + 1):
        if not math.isfinite(norm):
            state.num_skipped += 1
            origins = [origin for part in ranks.gather_objects(step.origins) for origin in part]
            if ranks.is_main:
                log.warning(
                    "step %d skipped: the gradient norm is %s; its samples: %s",
                    number,
                    norm,
                    ", ".join(origins),
                )
    if state.num_skipped > MAX_SKIPPED_STEPS:
        raise UserError(
            f"{state.num_skipped} steps had a gradient that is not finite; their samples are named above: "
            "check these, or lower --lr"
        )


def _name_bad(micro_batches: list[Prepared]) -> list[str]:
    """What is wrong with the samples that cannot be used."""
    problems = [p for batch in micro_batches for p in batch.problems if p is not None]
    for problem in problems:
        log.warning("sample left out: %s", problem)
    return problems


def backward(
    network: nn.Module,
    inputs: list[tuple],
    notes: list[int],
    state: TrainState,
    config: TrainConfig,
    ranks: Distributed,
) -> tuple[Tensor, ...]:
    """Accumulates the gradient of a global batch.

    Returns:
      This rank's part of the mean loss, and the sums of `notes` over the ranks; all stay on the device.
    """
    # The loss is a mean over the supervised slots of the global batch, so their number comes first.
    supervised = sum(len(layout.supervised) for layout, _ in inputs)
    counts = torch.tensor([supervised, *notes]).to(ranks.device, non_blocking=True)
    counts = ranks.all_reduce_sum(counts)
    loss_sum = torch.zeros((), device=ranks.device)
    for i, (layout, text) in enumerate(inputs):
        several_ranks_wait = i < len(inputs) - 1 and ranks.world_size > 1
        with network.no_sync() if several_ranks_wait else contextlib.nullcontext():
            with autocast(ranks.device, config.mixed_precision):
                loss = network(layout, text) / counts[0].clamp(min=1)
            # An infinite loss can have a finite gradient; times not-a-number it has none.
            loss = loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)
            # DDP averages over the ranks; a sum is wanted.
            state.scaler.scale(loss * ranks.world_size).backward()
        loss_sum += loss.detach()
    return loss_sum, *counts[1:]


def update(state: TrainState, total_steps: int, config: TrainConfig) -> Tensor:
    """Clips, steps, averages; a gradient that is not finite changes no weight. Returns the gradient norm."""
    norm = state.optimizers.clip(state.model, config.max_grad_norm, state.scaler)
    factor = lr_factor(
        state.step,
        total_steps,
        config.schedule,
        warmup_steps=config.warmup_steps,
        pct_start=config.pct_start,
        final_div_factor=config.final_div_factor,
        annealing="linear" if config.lr_scheduler_annealing == "linear" else "cos",
    )
    state.optimizers.scale_lr(factor)
    state.optimizers.step(state.scaler, skip=~torch.isfinite(norm))
    if state.ema is not None:
        average_weights(state.ema, state.model)
    state.scaler.update()
    state.optimizers.zero_grad()
    return norm
