"""Tensors of which every rank keeps a part: torch's DTensor.

Its modules take most of a second to import, so they are where there is one already.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

_HOME = "torch.distributed.tensor"


def is_sharded(value: object) -> bool:
    """Whether it is a tensor of which every rank keeps a part."""
    return _HOME in sys.modules and isinstance(value, sys.modules[_HOME].DTensor)


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor of which every rank keeps a part; all ranks must call it. Others as they are."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this rank keeps of a tensor, in the same memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def sharded_like(pattern: Tensor | None, whole: Tensor) -> Tensor:
    """This rank's part of a tensor that every rank has whole, where `pattern` is such a part; else all of it.

    No rank waits for another.
    """
    if pattern is None or not is_sharded(pattern):
        return whole
    placed = whole.to(pattern.device), pattern.device_mesh, pattern.placements
    # A copy: a view would keep all of the whole one.
    return sys.modules[_HOME].distribute_tensor(*placed, src_data_rank=None).clone()


def wrapped_like(pattern: Tensor, part: Tensor) -> Tensor:
    """A tensor of which every rank keeps `part`, sharded along the same dimension as `pattern`, where that is
    sharded; else the part itself. The other dimensions are the part's."""
    if not is_sharded(pattern):
        return part
    ((dim, size),) = {(p.dim, pattern.shape[p.dim]) for p in pattern.placements if p.is_shard()}
    shape = [*part.shape[:dim], size, *part.shape[dim + 1 :]]
    whole = torch.empty(shape, dtype=part.dtype, device="meta")  # for its strides
    return sys.modules[_HOME].DTensor.from_local(
        part,
        pattern.device_mesh,
        pattern.placements,
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),
    )
