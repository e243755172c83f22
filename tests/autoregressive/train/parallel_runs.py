"""Trainings on several ranks: `python parallel_runs.py PLAN.json`, a list of groups of ranks.

A group is {"ranks", "jobs"}; its jobs are trained one after the other in the same processes. A job is
{"stage", "flags"}, perhaps with "resave": go on from its checkpoint, without a step, and save that as a file,
or "small_buckets": DDP's gradients are summed over the ranks in another order.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft  # noqa: F401  # before the ranks are forked: it takes seconds
import torch
import torch.distributed.checkpoint
import torch.distributed.fsdp  # before the ranks are forked
from torch.nn.parallel import DistributedDataParallel

from autoregressive.train import stages
from autoregressive.train.config import EditingConfig, T2IConfig
from autoregressive.train.state import TrainState, save
from runtime.config import parse
from runtime.distributed import Distributed, distributed
from runtime.training import parallel
from runtime.training.checkpoints import Checkpoints
from tokenizer.tokenizer_image.vq_config import VQTrainConfig
from tokenizer.tokenizer_image.vq_loop import train as train_tokenizer

STAGES = {"t2i": (T2IConfig, "train_t2i"), "editing": (EditingConfig, "train_editing")}


class SmallBuckets(DistributedDataParallel):
    """DDP that reduces a parameter or two at a time: the ranks' parts of a sum come in another order."""

    def __init__(self, module: torch.nn.Module, **flags: Any) -> None:
        super().__init__(module, **flags, bucket_cap_mb=0.001)


def run_job(job: dict, ranks: Distributed) -> None:
    """Trains, or goes on from a checkpoint without a step and saves what that gives."""
    if job["stage"] == "tokenizer":
        # Sharded weights are gathered in the plain layout; convolutions of the other one round differently,
        # and a code that flips is no small difference.
        torch.channels_last = torch.contiguous_format
        train_tokenizer(parse(VQTrainConfig, job["flags"]), ranks)
        return
    config_class, train = STAGES[job["stage"]]
    config = parse(config_class, job["flags"])
    found: list[TrainState] = []
    parallel.DistributedDataParallel = SmallBuckets if job.get("small_buckets") else DistributedDataParallel
    fit = stages.fit
    stages.fit = lambda *args, **kwargs: found.append(fit(*args, **kwargs))
    try:
        getattr(stages, train)(config, ranks)
    finally:
        stages.fit = fit
    if job.get("resave"):
        found[0].checkpoints = Checkpoints(config.results_dir, 0, ranks)
        save(found[0], replace(config, gpt_ckpt=None), ranks)


def run_group(group: dict) -> None:
    """Forks the ranks, which share what this process has imported, and waits for them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    children = []
    for rank in range(group["ranks"]):
        child = os.fork()
        if child == 0:
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": group["ranks"]}
            os.environ |= {name: str(value) for name, value in places.items()} | address
            with distributed("cpu") as ranks:
                for job in group["jobs"]:
                    run_job(job, ranks)
            sys.exit(0)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not any(statuses), statuses


def main() -> None:
    torch.set_num_threads(1)
    for group in json.loads(Path(sys.argv[1]).read_text()):
        run_group(group)


if __name__ == "__main__":
    main()
