"""Test 18: SIGKILL to a rank, or to all, while a folder is written: the newest whole one loads."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from runtime.distributed import Distributed
from runtime.training.checkpoints import Checkpoints
from tests.battery.cases import Assets, Case
from tests.battery.killed_saves import content_of, require_whole_ones

RANKS = 2


def cases() -> list[Case]:
    victims = ("rank 0", "rank 1", "all ranks")
    return [Case(f"moment {number}, {victims[number % 3]}", partial(_run, number)) for number in range(30)]


def _run(number: int, assets: Assets, folder: Path) -> None:
    import torch.distributed.checkpoint
    import torch.distributed.tensor  # here, not in each child  # noqa: F401

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    read, write = os.pipe()
    children = []
    for rank in range(RANKS):
        child = os.fork()
        if child == 0:
            _save_on_and_on(folder, rank, port, write)
        children.append(child)
    os.close(write)
    told = os.read(read, 4)
    assert told, "no folder was written"
    time.sleep(random.Random(number).uniform(0, 0.3))
    for victim in children if number % 3 == 2 else [children[number % 3]]:
        os.kill(victim, signal.SIGKILL)
    if number % 3 != 2:
        time.sleep(0.5)  # the other is on its own for a while, before torchrun ends it
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    while step := os.read(read, 4):
        told = step
    os.close(read)
    checkpoints = folder / "checkpoints"
    require_whole_ones(checkpoints, int.from_bytes(told, "little"))
    with Checkpoints(str(folder), 1, kind="dcp") as next_run:
        next_run.save(9999999, content_of(1))
    assert [path.name for path in checkpoints.iterdir()] == ["9999999.dcp"], "leftovers stay"


def _save_on_and_on(folder: Path, rank: int, port: int, pipe: int) -> None:
    try:
        store = dist.TCPStore("localhost", port, RANKS, is_master=rank == 0)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard, distribute_tensor

        mesh = init_device_mesh("cpu", (RANKS,))
        ranks = Distributed(rank, RANKS, rank, torch.device("cpu"))

        def sharded(part: dict) -> dict:
            return {n: distribute_tensor(t, mesh, [Shard(0)], src_data_rank=None) for n, t in part.items()}

        checkpoints = Checkpoints(str(folder), 2, ranks, "dcp")
        for step in range(1, 1000):
            content = content_of(step)
            content["model"] = sharded(content["model"])
            content["optimizer"]["state"][0] = sharded(content["optimizer"]["state"][0])
            checkpoints.save(step, content)
            for tensor in content["model"].values():
                tensor.zero_()  # training goes on, the copy does not
            if rank == 0 and step > 1:
                os.write(pipe, (step - 1).to_bytes(4, "little"))
    finally:
        os._exit(1)
