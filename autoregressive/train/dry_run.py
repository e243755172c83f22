"""`--dry-run` of both stages: two steps that are thrown away, and the first batch as a picture."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.models.gpt import Transformer
from autoregressive.models.loss import SupervisedLoss
from autoregressive.train.config import TrainConfig
from autoregressive.train.inputs import Inputs
from autoregressive.train.loop import count_steps, make_sampler
from autoregressive.train.preview import save_rows, show_batch
from autoregressive.train.state import new_state
from autoregressive.train.steps import backward, share, update
from dataset.batches import EditBatch, T2IBatch, collate_samples
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.training.dry_run import Plan, measure, report

log = get_logger(__name__)
MAX_SHOWN = 8
SMALLER = (
    "a smaller --global-batch-size, more --gradient-accumulation-steps or ranks,"
    " or --activation-checkpointing"
)


def dry_run(
    model: Transformer,
    dataset: Dataset,
    inputs: Inputs,
    config: TrainConfig,
    ranks: Distributed,
    pipeline: EditingPipeline,
) -> None:
    """Prints what the run would take, and writes `first_batch.png`; every rank must call it.

    Two steps are taken with the first global batch, as `loop.fit` takes them, and thrown away.

    Raises:
      UserError: a step does not fit into the GPU's memory, no sample of the first batch can be used, or the
        run is done.
    """
    sampler = make_sampler(dataset, config, ranks)
    network = share(SupervisedLoss(model), config, ranks)
    state = new_state(model, sampler, config, ranks)
    first = islice(sampler, config.gradient_accumulation_steps)
    batches = [collate_samples([dataset[key] for key in keys]) for keys in first]
    if not batches:
        raise UserError(
            f"{config.gpt_ckpt} has done all of --epochs {config.epochs}: nothing is left to train; give "
            "more, or another --results-dir"
        )
    _require_usable(batches, ranks)
    picture = _picture(pipeline, batches[0], config) if ranks.is_main else None
    model.train()
    steps, tokens = count_steps(config, sampler), 0

    def step() -> None:
        nonlocal tokens
        made = [inputs(batch, state.step) for batch in batches]
        tokens = sum(int(layout.used_slots().sum()) for layout, _ in made)
        backward(network, made, [], state, config, ranks)
        update(state, steps, config).item()  # waits for the device

    cost = measure(step, ranks, SMALLER)
    if picture is not None:
        plan = Plan(
            model=config.gpt_model,
            modules=(model,) if state.ema is None else (model, state.ema),
            optimizers=(state.optimizers,),
            steps=steps,
            samples=sampler.num_samples,
            global_batch_size=config.global_batch_size,
            ckpt_every=config.ckpt_every,
            epoch_saves=not config.no_epoch_save,
            max_checkpoints=config.max_checkpoints,
            results_dir=config.results_dir,
        )
        report(plan, cost, tokens * ranks.world_size, "tokens", ranks)
        log.info("first batch      %s: %s", picture, "; ".join(map(_words, batches[0].texts[:3])))
        for problem in filter(None, batches[0].problems):
            log.warning("a sample that would be left out: %s", problem)
    ranks.barrier()


def _require_usable(batches: list[T2IBatch | EditBatch], ranks: Distributed) -> None:
    """
    Raises:
      UserError: on every rank, if none has a sample that can be trained on.
    """
    usable = torch.tensor(sum(int(batch.valid.sum()) for batch in batches), device=ranks.device)
    if int(ranks.all_reduce_sum(usable)) == 0:
        problems = [problem for batch in batches for problem in batch.problems if problem is not None]
        raise UserError(
            "no sample of the first batch can be used; mend the data:\n  " + "\n  ".join(problems[:MAX_SHOWN])
        )


def _words(text: object) -> str:
    return repr(text) if isinstance(text, str) else "text features"


def _picture(pipeline: EditingPipeline, batch: T2IBatch | EditBatch, config: TrainConfig) -> Path:
    rows = show_batch(pipeline, batch, MAX_SHOWN)
    if isinstance(batch, EditBatch):
        side, grid = pipeline.image_size, pipeline.grid
        masks = batch.edit_mask[:MAX_SHOWN].view(-1, grid, grid).numpy()
        cells = [Image.fromarray(np.uint8(mask) * 255).convert("RGB") for mask in masks]
        rows.append([image.resize((side, side), Image.Resampling.NEAREST) for image in cells])
    path = Path(config.results_dir) / "first_batch.png"
    save_rows(rows, path)
    return path
