"""torchrun or a single process, GPUs or CPUs: one object that knows which."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from runtime.devices import pick_device, subnormals_as_zero
from runtime.logging import get_logger

log = get_logger(__name__)

TIMEOUT = timedelta(hours=2)
"""How long ranks wait for one that works alone: reading lists, writing a checkpoint to a slow disk."""
_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>: which signal comes when the parent dies


@dataclass(frozen=True)
class Distributed:
    """This process's place among `world_size` ranks, and its device."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sums `tensor` over the ranks, in place; returns it."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's `value`, in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values


ONE_RANK = Distributed(0, 1, 0, torch.device("cpu"))
"""A single process on the CPU."""


def restart_count() -> int:
    """How often torchrun (`--max-restarts`) has started this process again after a crash on its machine."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def end_with_parent() -> None:
    """Has the kernel kill this process when the one that started it dies, however that may be; on Linux."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()  # None: not started by multiprocessing
    between = multiprocessing.get_start_method(allow_none=True) == "forkserver"  # is the parent then
    if parent is not None and not between and os.getppid() != parent.pid:
        os._exit(1)  # it was dead already


def _warn_of_unknown_hosts(device: torch.device) -> None:
    """Says at once why the ranks may wait for minutes: a host name that nothing resolves."""
    names = {os.environ.get("MASTER_ADDR", "localhost")}
    if device.type == "cpu" and "GLOO_SOCKET_IFNAME" not in os.environ:
        names.add(socket.gethostname())  # gloo connects the ranks by it
    for name in sorted(names):
        try:
            socket.getaddrinfo(name, None)
        except OSError as error:
            log.warning(
                "waiting for the other ranks, but the host name %r does not resolve (%s); on one machine "
                "torchrun --rdzv-backend=c10d --rdzv-endpoint=localhost:0 and GLOO_SOCKET_IFNAME=lo help",
                name,
                error.strerror or error,
            )


@contextmanager
def distributed(device: str = "auto") -> Iterator[Distributed]:
    """Joins the process group that torchrun describes (nccl on GPUs, gloo on CPUs), or none without torchrun.

    On CPUs subnormal numbers count as zero inside.

    Args:
      device: see `pick_device`.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()  # torchrun's ranks have sessions of their own, and would train on without it
    rank, world_size, local_rank = (int(os.environ.get(k, d)) for k, d in
                                    (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))  # fmt: skip
    where = pick_device(device, local_rank)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    # The GPU is not passed to init_process_group: eager NCCL set-up would only slow the single-GPU case.
    if world_size > 1:
        _warn_of_unknown_hosts(where)
        store, _, _ = next(dist.rendezvous("env://"))
        # torchrun starts a crashed group again on the same store, where the last attempt's addresses stand.
        # On several machines it counts on each alone, and needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
        if int(os.environ.get("GROUP_WORLD_SIZE", 1)) == 1:
            store = dist.PrefixStore(f"attempt {restart_count()}", store)
        backend = "nccl" if where.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)
    try:
        with subnormals_as_zero(where):
            yield Distributed(rank, world_size, local_rank, where)
    finally:
        if world_size > 1:
            dist.destroy_process_group()
