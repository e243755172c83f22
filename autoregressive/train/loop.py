"""The training loop of both stages: global batches, exact resume, equal results on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from autoregressive.models.gpt import Transformer
from autoregressive.models.loss import SupervisedLoss
from autoregressive.train.config import TrainConfig, step_limit
from autoregressive.train.inputs import Inputs, NumberedBatches, Prepared, PreparedBatches
from autoregressive.train.meter import Meter
from autoregressive.train.rewards.config import RewardsConfig
from autoregressive.train.state import TrainState, new_state, save
from autoregressive.train.steps import (
    UncheckedStep,
    backward,
    check_steps,
    name_bad,
    share,
    update,
    warm_up,
)
from dataset.data_order import ResumableBatchSampler
from runtime.distributed import Distributed
from runtime.logging import get_logger
from runtime.stopping import LateReading, Loading, StopSignals, leave_signals_to_the_trainer
from runtime.training.checkpoints import due

log = get_logger(__name__)

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
    *,
    preview: Preview | None = None,
    validate: Validate | None = None,
    shown: Transformer | None = None,
) -> TrainState:
    """Trains `model` to the last step; saves at the intervals asked for and at the end.

    Args:
      model: on the rank's device, or, to be sharded, on the CPU.
      dataset: map-style, keyed by (index, seed).
      inputs: turns samples into what the model reads; all that differs between the stages.
      preview: draws a picture of the model's work at a step and returns its path.
      validate: scores the model's work at a step.
      shown: a `hollow_copy` that these two look at, where `model` is sharded.
    """
    torch.manual_seed(config.global_seed + ranks.rank)  # of the dropouts
    sampler = make_sampler(dataset, config, ranks)
    network = share(SupervisedLoss(model), config, ranks)
    state = new_state(model, sampler, config, ranks, shown)
    total_steps = count_steps(config, sampler)
    if state.step >= total_steps:
        log.info("step %d is the last: nothing left to train", state.step)
    model.train()
    warm_up(network, dataset, inputs, state, config, ranks)
    loader = batch_loader(
        PreparedBatches(dataset, inputs.preparation()),
        NumberedBatches(state.sampler, state.step, config.gradient_accumulation_steps),
        config.num_workers,
        pin_memory=ranks.device.type == "cuda",
    )
    with (
        StopSignals() as signals,
        Meter(state, total_steps, config, ranks) as meter,
        Loading(loader) as batches,
        state.checkpoints,
    ):
        between = BetweenSteps(preview, validate, state, config, ranks, meter)
        between.validate_what_was_missed()
        stepping = Stepping(network, inputs, state, total_steps, config, ranks, signals)
        while state.step < total_steps:
            stepping.take_step(batches, meter, between)
    return state


class Stepping:
    """The steps of a training, one after the other, and what has to happen after each."""

    def __init__(
        self,
        network: nn.Module,
        inputs: Inputs,
        state: TrainState,
        total_steps: int,
        config: TrainConfig,
        ranks: Distributed,
        signals: StopSignals,
    ) -> None:
        self.network, self.inputs, self.state, self.total_steps = network, inputs, state, total_steps
        self.config, self.ranks, self.signals = config, ranks, signals
        self._unchecked: list[UncheckedStep] = []
        self._stops = LateReading()

    def take_step(self, batches: Loading, meter: Meter, between: BetweenSteps) -> None:
        """One optimizer step; logs, saves, draws and validates where that is due.

        Raises:
          SystemExit: a signal came, on any rank; the state is saved.
        """
        state, config = self.state, self.config
        micro_batches = [batches.next() for _ in range(config.gradient_accumulation_steps)]
        loss, norm, num_stops = self._train_on(micro_batches)
        last = state.step == self.total_steps
        epoch_ends = state.sampler.ends_epoch()
        saves = last or (epoch_ends and not config.no_epoch_save) or due(config.ckpt_every, state.step)
        logs = last or state.step % config.log_every == 0
        stopped = self._stops.read(num_stops) > 0
        if saves or logs or epoch_ends or stopped:
            check_steps(self._unchecked, state, config, self.ranks)
        state.sampler.advance()
        if epoch_ends:
            state.num_bad = 0
            state.bad_samples.clear()
        meter.update(loss, sum(batch.flops for batch in micro_batches))
        if logs:
            meter.line(norm)
        if saves or stopped:
            save(state, config, self.ranks)
        if (last or not stopped) and (between.draw_and_validate(last) or saves):
            # All that took a while, and a loader's processes do not wait long after a signal.
            stopped = int(self.signals.heard_by(self.ranks)) > 0
            if stopped and not saves:
                save(state, config, self.ranks)
        if stopped and not last:
            self.signals.end_run(state.step)

    def _train_on(self, micro_batches: list[Prepared]) -> tuple[Tensor, Tensor, Tensor]:
        """This rank's part of the loss, the gradient's norm, and how many ranks heard a signal."""
        problems = name_bad(micro_batches)
        notes = [len(problems), int(self.signals.received > 0)]
        made = [self.inputs.finish(batch) for batch in micro_batches]
        loss, num_bad, num_stops = backward(self.network, made, notes, self.state, self.config, self.ranks)
        norm = update(self.state, self.total_steps, self.config)
        self.state.step += 1
        origins = [origin for batch in micro_batches for origin in batch.origins]
        self._unchecked.append(UncheckedStep(norm, num_bad, origins, problems))
        return loss, norm, num_stops


class BetweenSteps:
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

    def validate_what_was_missed(self) -> None:
        """Validates at a step where the run stopped before it could."""
        step, validate = self.state.step, self.validate
        if validate and step and validate.due(step) and not validate.done(step):
            self._score()

    def draw_and_validate(self, last: bool) -> bool:
        """Draws and scores what is due; returns whether anything was. All ranks must call it."""
        step, every = self.state.step, self.config.preview_every
        draws = self.preview is not None and (due(every, step) or last and every > 0)
        scores = self.validate is not None and self.validate.due(step)
        if draws:
            self._draw()
        if scores:
            self._score()
        return draws or scores

    def _draw(self) -> None:
        with self.meter.paused(), self.state.averaged_weights():
            if self.ranks.is_main:
                self.meter.write_picture(self.state.step, self.preview(self.state.step))

    def _score(self) -> None:
        with self.meter.paused(), self.state.averaged_weights():
            self.meter.scores(self.validate(self.state.step))


def make_sampler(
    dataset: Dataset, config: TrainConfig | RewardsConfig, ranks: Distributed
) -> ResumableBatchSampler:
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


def count_steps(config: TrainConfig | RewardsConfig, sampler: ResumableBatchSampler) -> int:
    """Optimizer steps of the whole run."""
    all_steps = config.epochs * sampler.batches_per_epoch
    limit = step_limit(config.max_steps)
    return all_steps if limit is None else min(all_steps, limit)


def batch_loader(
    dataset: Dataset, batches: Iterable, num_workers: int, *, pin_memory: bool = False
) -> DataLoader:
    """A loader of whole batches: `dataset` makes one of each key that `batches` names."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=batches,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        pin_memory=pin_memory,
        # Its own: starting to iterate draws a number, which must not come from the dropouts' generator.
        generator=torch.Generator(),
        worker_init_fn=leave_signals_to_the_trainer,
    )


def _as_it_is(batch: Any) -> Any:
    """The loader's default would look for tensors in it."""
    return batch
