"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from runtime.sharding.tensors import is_sharded, own_part


def copy_of_trained(model: nn.Module) -> nn.Module:
    """A copy of a model that shares the weights that do not train."""
    frozen = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
    return copy.deepcopy(model, memo=frozen)


class AveragedWeights(AveragedModel):
    """torch's average of weights, `module`, that never waits for the device and wants no gradients.

    Buffers are not averaged: they stay as they were copied. Weights that do not train are the model's own.
    """

    def __init__(self, model: nn.Module, decay: float, *, counts_initial: bool) -> None:
        """
        Args:
          decay: what an update leaves of the average.
          counts_initial: the weights of now are part of the average; else the first update replaces them.
        """
        super().__init__(nn.Module(), multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.module = copy_of_trained(_plain(model))
        self.requires_grad_(False)
        self.n_averaged.fill_(int(counts_initial))

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Moves the average towards the weights, without a wait for the device to hand `n_averaged` over."""
        pairs = zip(self.module.parameters(), model.parameters(), strict=True)
        pairs = [(own_part(average), own_part(weight)) for average, weight in pairs if weight.requires_grad]
        averages, weights = map(list, zip(*pairs, strict=True))
        if self.n_averaged == 0:
            torch._foreach_copy_(averages, weights)
        else:
            self.multi_avg_fn(averages, weights, self.n_averaged)
        self.n_averaged += 1

    @contextmanager
    def put_into(self, model: nn.Module) -> Iterator[None]:
        """Swaps the averaged weights for those of `model` for a while."""

        def swap() -> None:
            for weight, average in zip(model.parameters(), self.module.parameters(), strict=True):
                weight.data, average.data = average.data, weight.data

        swap()
        try:
            yield
        finally:
            swap()


def _plain(model: nn.Module) -> nn.Module:
    """What can be copied: the model itself, or, where its weights are sharded and its hooks in the way, these
    and the buffers by the same names."""
    if not any(is_sharded(weight) for weight in model.parameters()):
        return model
    plain = nn.Module()
    for name, weight in model.named_parameters(recurse=False):
        plain.register_parameter(name, nn.Parameter(weight.detach(), weight.requires_grad))
    for name, buffer in model.named_buffers(recurse=False):
        plain.register_buffer(name, buffer, persistent=name not in model._non_persistent_buffers_set)
    for name, child in model.named_children():
        plain.add_module(name, _plain(child))
    return plain
