"""Models with an adapter: copies that share the base weights, or with these and the adapter in one.

Letters: r rank.
"""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor, nn

from autoregressive.adapters.files import Adapter, LowRank
from autoregressive.adapters.lora import dense_weight, targets_of, weights_sample
from autoregressive.models.arithmetic import OWN_CELL_TABLE
from autoregressive.models.gpt import Transformer
from autoregressive.models.weights import MARKS
from runtime.errors import UserError

_NEAR = 0.01  # of two samples of weights: below what types round, above what a training leaves


class AdaptedLinear(nn.Module):
    """What peft's layer computes of a linear layer, packed or not, without gradients."""

    def __init__(self, base: nn.Module, part: LowRank) -> None:
        """
        Args:
          base: kept as it is.
        """
        super().__init__()
        weight = dense_weight(base)
        self.base = base
        self.down = _linear(part.down.to(weight))
        self.up = _linear((part.scale * part.up.float()).to(weight))
        self.register_buffer("gain", None if part.magnitude is None else gain_of(weight, part).to(weight))

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x) + self.up(self.down(x))
        return y if self.gain is None else y * self.gain


def gain_of(weight: Tensor, part: LowRank) -> Tensor:
    """(out,) DoRA's factors: trained lengths of rows over those that rows have."""
    summed = _sum(weight, part)
    return part.magnitude.to(summed) / summed.norm(dim=1)


def merged_weight(weight: Tensor, part: LowRank) -> Tensor:
    """(out, in) weight of a plain layer that computes what the adapted one does, in the type of `weight`."""
    merged = _sum(weight, part)
    if part.magnitude is not None:
        merged *= gain_of(weight, part)[:, None]
    return merged.to(weight.dtype)


def _sum(weight: Tensor, part: LowRank) -> Tensor:
    """(out, in) W + alpha/r · B A, before DoRA scales its rows, in float32 at least."""
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return wide + part.scale * (part.up.to(wide) @ part.down.to(wide))


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return linear


@torch.no_grad()
def adapted_copy(model: Transformer, adapter: Adapter, *, merged: bool = False) -> Transformer:
    """`model` with an adapter. All weights are the same memory, but for the adapter's.

    Args:
      merged: the adapted matrices are new ones, which hold the adapter: memory for less time.
    Raises:
      UserError: the adapter was made for another model.
    """
    require_fit(adapter, model)
    leaves = [module for module in model.modules() if not any(module.children())]
    shared = [*leaves, *model.parameters(), *model.buffers()]
    adapted = copy.deepcopy(model, memo={id(part): part for part in shared})
    for name, part in adapter.layers.items():
        layer = adapted.get_submodule(name)
        new = _linear(merged_weight(dense_weight(layer), part)) if merged else AdaptedLinear(layer, part)
        parent, _, own = name.rpartition(".")
        setattr(adapted.get_submodule(parent), own, new)
    for name, table in adapter.tables.items():
        adapted._buffers.pop(name, None)  # a model without the table has zeros there
        table = table.to(model.device, model.dtype)
        setattr(adapted, name, nn.Parameter(table, requires_grad=False))
    config = model.config
    adapted.config = dataclasses.replace(
        config,
        mask_in_context=config.mask_in_context or MARKS[0] in adapter.tables,
        own_cell=config.own_cell or OWN_CELL_TABLE in adapter.tables,
    )
    return adapted


def require_fit(adapter: Adapter, model: Transformer) -> None:
    """
    Raises:
      UserError: the adapter was made for a model of another size, or for other weights.
    """
    layers = targets_of(model)
    for name, part in adapter.layers.items():
        wanted = part.up.shape[0], part.down.shape[1]
        if name not in layers:
            raise UserError(
                f"{adapter.path} was made for another model: it adapts {name}, and this model has "
                f"{model.config.n_layer} layers with {', '.join(sorted({n.split('.')[-1] for n in layers}))}"
            )
        there = tuple(dense_weight(layers[name]).shape)
        if there != wanted:
            raise UserError(
                f"{adapter.path} was made for a model of another size: {name} is {wanted} there and {there} "
                "in this one"
            )
    for name, table in adapter.tables.items():
        there = tuple(getattr(model, name).shape)
        if tuple(table.shape) != there:
            raise UserError(
                f"{adapter.path} was made for a model of another size: {name} is {tuple(table.shape)} there "
                f"and {there} in this one"
            )
    if adapter.base_sample is None:
        return
    there, here = torch.tensor(adapter.base_sample), torch.tensor(weights_sample(model))
    if there.shape != here.shape or (there - here).norm() > _NEAR * there.norm():
        raise UserError(
            f"{adapter.path} is an adapter of other weights than this model's: it was trained on "
            f"{adapter.base}; load these"
        )
