"""Trainings of several ranks, one after the other in the same processes: under torchrun, of `jobs.json`.

A job is {"stage", "flags"}, and perhaps "resave": a checkpoint to go on from and save again, as a file, at once.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from autoregressive.train import stages
from autoregressive.train.config import EditingConfig, T2IConfig
from autoregressive.train.state import TrainState, save
from runtime.config import parse
from runtime.distributed import Distributed, distributed
from runtime.training.checkpoints import Checkpoints

STAGES = {"t2i": (T2IConfig, "train_t2i"), "editing": (EditingConfig, "train_editing")}


def run_job(job: dict, ranks: Distributed) -> None:
    """Trains, or goes on from a checkpoint without a step and saves what that gives."""
    config_class, train = STAGES[job["stage"]]
    config = parse(config_class, job["flags"])
    found: list[TrainState] = []
    fit = stages.fit
    stages.fit = lambda *args, **kwargs: found.append(fit(*args, **kwargs))
    try:
        getattr(stages, train)(config, ranks)
    finally:
        stages.fit = fit
    if job.get("resave"):
        found[0].checkpoints = Checkpoints(config.results_dir, 0, ranks)
        save(found[0], replace(config, gpt_ckpt=None), ranks)


def main() -> None:
    torch.set_num_threads(1)
    with distributed("cpu") as ranks:
        for job in json.loads(Path(sys.argv[1]).read_text()):
            run_job(job, ranks)


if __name__ == "__main__":
    main()
