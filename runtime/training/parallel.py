"""How the ranks of a training share its work: each with all weights (DDP), or with a part of them (FSDP2)."""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from runtime.devices import computing_type
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.sharding.tensors import whole_tensor

if TYPE_CHECKING:  # imported where a run shards: it takes most of a second
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import MixedPrecisionPolicy
    from torch.distributed.tensor import Shard


@dataclass(frozen=True)
class Parts:
    """The modules of a network whose weights are gathered together and dropped again, in their order.

    Each runs once a forward. What is in none of them is gathered for the whole step.
    """

    embeddings: Sequence[nn.Module]
    blocks: Sequence[nn.Module]
    head: Sequence[nn.Module] = ()


@dataclass(frozen=True)
class Sharding:
    """Which rank keeps which part of the weights, and the type that blocks compute in."""

    mesh: DeviceMesh
    """(shards,), or (replicas, shards)."""
    dtype: torch.dtype


def shards(parallel: str, ranks: Distributed) -> bool:
    """Whether a rank keeps a part of the weights only; a single rank has all, whatever `--parallel` says."""
    return parallel != "ddp" and ranks.world_size > 1


def sharding_of(
    parallel: str, shard_size: int | None, mixed_precision: str, ranks: Distributed
) -> Sharding | None:
    """What `--parallel`, `--shard-size` and `--mixed-precision` ask for; None: every rank has all weights.

    Raises:
      UserError: the ranks cannot be split like that.
    """
    if not shards(parallel, ranks):
        return None
    from torch.distributed.device_mesh import init_device_mesh

    kind, count = ranks.device.type, ranks.world_size
    dtype = computing_type(ranks.device, mixed_precision)
    if parallel == "fsdp":
        return Sharding(init_device_mesh(kind, (count,), mesh_dim_names=("shards",)), dtype)
    size = shard_size or int(os.environ.get("LOCAL_WORLD_SIZE", count))
    if count % size:
        raise UserError(
            f"--parallel hsdp: {count} ranks cannot be split into groups of {size}; give a --shard-size that "
            f"divides {count}"
        )
    mesh = init_device_mesh(kind, (count // size, size), mesh_dim_names=("replicas", "shards"))
    return Sharding(mesh, dtype)


def parallel(
    network: nn.Module,
    ranks: Distributed,
    sharding: Sharding | None = None,
    parts: Parts | None = None,
    *,
    compiled: bool = False,
    broadcast_buffers: bool = False,
) -> nn.Module:
    """`network` as all ranks train it; optimizers and averages are made of its weights afterwards.

    Args:
      sharding: None keeps all weights on every rank, with DDP where there are several.
      parts: of a network that is sharded.
      compiled: the whole network, or, sharded, each block by itself.
      broadcast_buffers: of DDP.
    """
    if sharding is not None:
        return _shard(network, sharding, parts, compiled)
    if ranks.world_size > 1:
        device_ids = [ranks.device.index] if ranks.device.type == "cuda" else None
        # torch 2.15 gives broadcast_buffers another name, which 2.10 does not know.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            network = DistributedDataParallel(
                network, device_ids=device_ids, broadcast_buffers=broadcast_buffers
            )
    if compiled:
        network.compile(dynamic=True)  # batches have as many slots as they need
    return network


def _shard(network: nn.Module, sharding: Sharding, parts: Parts, compiled: bool) -> nn.Module:
    """Blocks are compiled, then all is sharded from the leaves to the root.

    Only blocks and head compute in the run's type: under autocast the embeddings of DDP stay float32, too,
    and with them what runs through the blocks.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import Shard

    mesh, num_shards = sharding.mesh, sharding.mesh.size(-1)

    def placement(parameter: nn.Parameter) -> Shard:
        """Rows, where there is one for every rank; else a dimension that they divide, if there is one. Never
        the last one, along which `AdamW8bit` has its blocks."""
        rest = [dim for dim, size in enumerate(parameter.shape[:-1]) if size % num_shards == 0]
        return Shard(0 if parameter.shape[0] >= num_shards or not rest else rest[0])

    def policy(dtype: torch.dtype) -> MixedPrecisionPolicy:
        # Inputs stay as they are: the angles of positions are float32, autocast turns what products read.
        return MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)

    shared = {"mesh": mesh, "shard_placement_fn": placement}
    for block in parts.blocks if compiled else ():
        block.compile(dynamic=True)
    for module in parts.embeddings:
        fully_shard(module, mp_policy=policy(torch.float32), **shared)
    shared_by_products = {**shared, "mp_policy": policy(sharding.dtype)}
    for block in parts.blocks:  # the backward pass begins with the last one, which stays gathered
        fully_shard(block, reshard_after_forward=block is not parts.blocks[-1], **shared_by_products)
    if parts.head:
        fully_shard(list(parts.head), reshard_after_forward=False, **shared_by_products)
    done = {weight for module in parts.head for weight in module.parameters()}
    return fully_shard(network, mp_policy=policy(torch.float32), ignored_params=done, **shared)


@contextlib.contextmanager
def exchanging(network: nn.Module, *, last: bool) -> Iterator[None]:
    """Around a backward pass: the ranks exchange gradients in the `last` one of a step only."""
    if hasattr(network, "set_requires_gradient_sync"):  # FSDP2's
        network.set_requires_gradient_sync(last)
        yield
    elif isinstance(network, DistributedDataParallel) and not last:
        with network.no_sync():
            yield
    else:
        yield


def hollow_copy(module: nn.Module, device: torch.device) -> nn.Module:
    """A copy that has the buffers and no weights, on `device`, to be filled by `gathered`."""
    empty = {id(p): nn.Parameter(p.new_empty(0), requires_grad=False) for p in module.parameters()}
    return copy.deepcopy(module, memo=empty).to(device)


@contextlib.contextmanager
@torch.no_grad()
def gathered(source: nn.Module, into: nn.Module) -> Iterator[None]:
    """The whole weights and the buffers of `source` in a `hollow_copy`; all ranks must enter it."""
    whole = dict(source.named_parameters())
    for name, weight in into.named_parameters():
        weight.data = whole_tensor(whole[name].detach()).to(weight.device, copy=True)
    buffers = dict(source.named_buffers())
    for name, buffer in into.named_buffers():
        buffer.copy_(buffers[name])
    try:
        yield
    finally:
        for weight in into.parameters():
            weight.data = weight.new_empty(0)
