"""One optimizer step, equal on any number of ranks, and what is judged after some of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from autoregressive.models.loss import SupervisedLoss
from autoregressive.train.config import TrainConfig
from autoregressive.train.inputs import Inputs, Prepared
from autoregressive.train.state import TrainState
from dataset.batches import collate_samples
from runtime.devices import autocast
from runtime.distributed import Distributed
from runtime.logging import get_logger
from runtime.optim import lr_factor
from runtime.training.checks import require_few_bad, require_few_skipped
from runtime.training.parallel import Parts, exchanging, parallel, sharding_of

log = get_logger(__name__)


def share(network: SupervisedLoss, config: TrainConfig, ranks: Distributed) -> nn.Module:
    """`network` as all ranks train it: with DDP, or with a part of the weights on each (`--parallel`).

    The state of a training is made afterwards: sharded weights are other tensors than those before.
    """
    sharding = sharding_of(config.parallel, config.shard_size, config.mixed_precision, ranks)
    return parallel(network, ranks, sharding, parts_of(network), compiled=config.compile)


def parts_of(network: SupervisedLoss) -> Parts:
    """What is gathered at a time; the tables of positions and marks are small and stay for the step."""
    model = network.model
    embeddings, head = [model.tok_embeddings, model.cls_embedding], [model.norm, network.head]
    return Parts(embeddings, list(model.layers), head)


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
    if not isinstance(network, DistributedDataParallel):
        return
    with torch.random.fork_rng([ranks.device] if ranks.device.type == "cuda" else []):
        samples = [dataset[0, 0]] * state.sampler.micro_batch_size
        layout, text = inputs(collate_samples(samples), state.step)
        with autocast(ranks.device, config.mixed_precision):
            network(layout, text).backward()
    network.zero_grad()


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
        with exchanging(network, last=i == len(inputs) - 1):
            with autocast(ranks.device, config.mixed_precision):
                loss = network(layout, text) / counts[0].clamp(min=1)
            # An infinite loss can have a finite gradient; times not-a-number it has none.
            loss = loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)
            # DDP and FSDP average over the ranks; a sum is wanted.
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
    state.update_average()
    state.scaler.update()
    state.optimizers.zero_grad()
    return norm


class UncheckedStep(NamedTuple):
    """What a step leaves to be judged when the device is waited for anyway."""

    norm: Tensor
    """The gradient's, the same on all ranks."""
    num_bad: Tensor
    """Unusable samples of all ranks."""
    origins: list[str]
    """This rank's samples."""
    problems: list[str]
    """What is wrong with this rank's unusable ones."""


def check_steps(
    unchecked: list[UncheckedStep], state: TrainState, config: TrainConfig, ranks: Distributed
) -> None:
    """Judges the latest steps, all at once: it waits for the device.

    All ranks have the same numbers and decide alike.
    """
    steps = list(unchecked)
    unchecked.clear()
    norms = torch.stack([step.norm for step in steps]).tolist()
    new_bad = int(torch.stack([step.num_bad for step in steps]).sum())
    state.num_bad += new_bad
    if new_bad:
        found = ranks.gather_objects([problem for step in steps for problem in step.problems])
        state.bad_samples += [problem for part in found for problem in part]
    budget, num_samples = config.bad_sample_budget, state.sampler.num_samples
    words = "unusable samples in this epoch"
    require_few_bad(state.num_bad, words, budget, num_samples, state.bad_samples)
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
    require_few_skipped(state.num_skipped, "their samples are named above: check these, or lower --lr")


def name_bad(micro_batches: list[Prepared]) -> list[str]:
    """What is wrong with the samples that cannot be used."""
    problems = [p for batch in micro_batches for p in batch.problems if p is not None]
    for problem in problems:
        log.warning("sample left out: %s", problem)
    return problems
