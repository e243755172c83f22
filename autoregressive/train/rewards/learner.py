"""One update of a policy from judged rows, equal on any number of ranks.

Letters: B rows, R drawn codes of all rows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autoregressive.models.gpt import Transformer
from autoregressive.sequence.layout import TrainingLayout
from autoregressive.train.rewards.config import RewardsConfig
from autoregressive.train.rewards.policy import PolicyLoss, drawn_codes
from autoregressive.train.rewards.rollout import Rows, Task
from autoregressive.train.state import TrainState
from runtime.checkpoint import weights_fingerprint
from runtime.devices import autocast
from runtime.distributed import Distributed
from runtime.optim import lr_factor
from runtime.training.ema import copy_of_trained

WATCHED = ("kl", "entropy", "clipped")
"""What `PolicyLoss` sums beside the loss, by name."""


class ReferenceModel:
    """The frozen model that the trained one is held near to: a copy, made before the first step.

    Of a model with an adapter it shares the base weights: the copy's adapter is one that does nothing yet.
    """

    def __init__(self, model: Transformer, temperature: float, group_size: int) -> None:
        self._model = copy_of_trained(model).requires_grad_(False).eval()
        self._how = temperature, group_size
        self.fingerprint = weights_fingerprint(self._model)

    @torch.no_grad()
    def log_probs(self, layout: TrainingLayout, text: Tensor) -> Tensor:
        """(R,) of the layout's drawn codes."""
        return drawn_codes(self._model, layout, text, *self._how).log_probs


class Pass(NamedTuple):
    """What one forward pass reads."""

    layout: TrainingLayout
    text: Tensor
    advantages: Tensor
    """(B,)"""
    reference: Tensor
    """(R,)"""


class Update(NamedTuple):
    """What all updates on a batch leave."""

    norm: float
    """The last gradient's, or the first that is not finite."""
    watched: Tensor
    """(3,) this rank's sums of KL, entropy and clipped codes, over all updates."""
    num_codes: int
    """This rank's, over all updates."""


class Learner:
    """Turns judged rows into gradients and steps."""

    def __init__(
        self,
        state: TrainState,
        reference: ReferenceModel,
        task: Task,
        config: RewardsConfig,
        ranks: Distributed,
    ) -> None:
        self.state, self.reference, self.task = state, reference, task
        self.config, self.ranks = config, ranks
        self._loss = PolicyLoss(
            state.model,
            config.temperature,
            config.group_size,
            clip_range=config.clip_range,
            kl_weight=config.kl_weight,
        )

    def learn(self, rows: Rows | None, advantages: Tensor) -> Update | None:
        """All updates of a step; None where no rank has a row to learn from. All ranks must call it.

        Args:
          rows: of the groups whose rewards differ; there may be none.
          advantages: (B,) of each.
        """
        own = 0 if rows is None else int(rows.edit_mask.sum())
        total = int(self.ranks.all_reduce_sum(torch.tensor(own, device=self.ranks.device)))
        if total == 0:
            return None
        passes = self._passes(rows, advantages) if own else []
        old: list[Tensor | None] = [None] * len(passes)
        self.state.scaler.scale(torch.zeros((), device=self.ranks.device))  # makes its scale, rows or none
        norms: list[float] = []
        watched = torch.zeros(3, device=self.ranks.device)
        for _ in range(self.config.updates_per_batch):
            for i, one in enumerate(passes):
                with autocast(self.ranks.device, self.config.mixed_precision):
                    loss, sums, log_probs = self._loss(*one, old[i])
                if old[i] is None:
                    old[i] = log_probs
                self.state.scaler.scale(loss / total).backward()
                watched += sums
            norms.append(self._step())
        norm = next((norm for norm in norms if not math.isfinite(norm)), norms[-1])
        return Update(norm, watched, own * self.config.updates_per_batch)

    def _passes(self, rows: Rows, advantages: Tensor) -> list[Pass]:
        device, passes = self.ranks.device, []
        size = self.config.group_size
        by_length = rows.edit_mask[::size].sum(1).argsort(stable=True)  # a pass is as long as its longest row
        for groups in by_length.split(self.config.groups_per_pass):
            index = (groups[:, None] * size + torch.arange(size)).flatten()
            part = rows.take(index)
            layout, text = self.task.layout(part).to(device), part.text.to(device)
            with autocast(device, self.config.mixed_precision):
                reference = self.reference.log_probs(layout, text)
            passes.append(Pass(layout, text, advantages[index].to(device), reference))
        return passes

    def _step(self) -> float:
        """Clips, steps, averages; a gradient that is not finite changes no weight. Returns its norm."""
        state, config = self.state, self.config
        sum_gradients(state.model, self.ranks)
        norm = state.optimizers.clip(state.model, config.max_grad_norm, state.scaler)
        state.optimizers.scale_lr(lr_factor(state.step, 0, warmup_steps=config.warmup_steps))
        state.optimizers.step(state.scaler, skip=~torch.isfinite(norm))
        state.update_average()
        state.scaler.update()
        state.optimizers.zero_grad()
        return norm.item()


def sum_gradients(model: nn.Module, ranks: Distributed) -> None:
    """Adds up the gradients of all ranks, one of which may have none: ranks learn from different numbers of
    rows, in different numbers of passes."""
    if ranks.world_size == 1:
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = ranks.all_reduce_sum(torch.cat([part.flatten() for part in parts]))
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
