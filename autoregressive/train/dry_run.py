"""What a training would take, found out with two steps that are thrown away: `--dry-run`."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from autoregressive.models.gpt import Transformer
from autoregressive.models.loss import SupervisedLoss
from autoregressive.pipeline import EditingPipeline
from autoregressive.train.config import TrainConfig
from autoregressive.train.inputs import MakeInputs
from autoregressive.train.loop import backward, count_steps, make_sampler, parallel, update
from autoregressive.train.preview import save_rows, show_batch
from autoregressive.train.state import TrainState, new_state
from dataset.samples import EditBatch, T2IBatch, collate_samples
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.logging import get_logger

log = get_logger(__name__)
GB = 1e9
MAX_SHOWN = 8
STEPS = 2  # the first one makes the optimizer's averages, the second is measured


@dataclass(frozen=True)
class Cost:
    """Of a step, measured."""

    memory: int
    """Bytes of one rank at the step's height, with all that the process holds."""
    seconds: float
    tokens: int
    """Slots that are no padding, of all ranks."""


def dry_run(
    model: Transformer,
    dataset: Dataset,
    make_inputs: MakeInputs,
    config: TrainConfig,
    ranks: Distributed,
    pipeline: EditingPipeline,
) -> Cost:
    """Prints what the run would take, and writes `first_batch.png`; every rank must call it.

    Two steps are taken with the first global batch, as `loop.fit` takes them, and thrown away.

    Raises:
      UserError: a step does not fit into the GPU's memory.
    """
    sampler = make_sampler(dataset, config, ranks)
    state = new_state(model, sampler, config, ranks)
    first = islice(sampler, config.gradient_accumulation_steps)
    batches = [collate_samples([dataset[key] for key in keys]) for keys in first]
    picture = _picture(pipeline, batches[0], config) if ranks.is_main else None
    try:
        cost = _measure(state, batches, make_inputs, config, ranks)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"a step does not fit into the GPU's memory: a smaller --global-batch-size, more "
            f"--gradient-accumulation-steps or ranks, or --activation-checkpointing takes less ({error})"
        ) from error
    if picture is not None:
        _report(state, cost, config, ranks)
        log.info("first batch      %s: %s", picture, "; ".join(map(_words, batches[0].texts[:3])))
        for problem in filter(None, batches[0].problems):
            log.warning("a sample that would be left out: %s", problem)
    ranks.barrier()
    return cost


def _measure(
    state: TrainState,
    batches: list[T2IBatch] | list[EditBatch],
    make_inputs: MakeInputs,
    config: TrainConfig,
    ranks: Distributed,
) -> Cost:
    network = parallel(SupervisedLoss(state.model), ranks)
    state.model.train()
    for _ in range(STEPS):
        ranks.barrier()
        _forget_peak(ranks.device)
        start = time.perf_counter()
        inputs = [make_inputs(batch, state.step) for batch in batches]
        backward(network, inputs, [], state, config, ranks)
        norm = update(state, count_steps(config, state.sampler), config)
        norm.item()  # waits for the device
        seconds = time.perf_counter() - start
    slots = sum(int(layout.used_slots().sum()) for layout, _ in inputs)
    return Cost(_peak(ranks.device), seconds, slots * ranks.world_size)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def _peak(device: torch.device) -> int:
    """The most the process has held since `_forget_peak`: of the GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _kilobytes("/proc/self/status", "VmHWM") * 1024


def _available(device: torch.device) -> int:
    """Bytes that a rank can have, what it holds now included."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return (_kilobytes("/proc/meminfo", "MemAvailable") + _kilobytes("/proc/self/status", "VmRSS")) * 1024


def _kilobytes(path: str, name: str) -> int:
    return int(dict(line.split(":") for line in Path(path).read_text().splitlines())[name].split()[0])


def _report(state: TrainState, cost: Cost, config: TrainConfig, ranks: Distributed) -> None:
    model, device = state.model, ranks.device
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    steps, samples = count_steps(config, state.sampler), state.sampler.num_samples
    batch = config.global_batch_size
    passes = steps * batch / samples
    log.info("model            %s, %.2f M parameters on %s", config.gpt_model, millions, device)
    log.info("ranks            %d, %d sample(s) a step on each", ranks.world_size, batch // ranks.world_size)
    log.info("memory per rank  %.2f GB; %.1f GB are there", cost.memory / GB, _available(device) / GB)
    log.info("steps            %d of %d samples: %.2f passes over %d", steps, batch, passes, samples)
    rate, hours = cost.tokens / cost.seconds, cost.seconds * steps / 3600
    log.info("speed            %.3g s a step, %.3g tokens/s, %.1f hours in all", cost.seconds, rate, hours)
    size = _checkpoint_bytes(state)
    saves = -(-steps // config.ckpt_every) if config.ckpt_every > 0 else 1
    saves += 0 if config.no_epoch_save else int(passes)
    kept = min(saves, config.max_checkpoints) if config.max_checkpoints > 0 else saves
    folder = Path(config.results_dir).resolve()
    free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    sizes = (size / GB, kept, kept * size / GB, free / GB)
    log.info("disk             %.2f GB a checkpoint, %d kept: %.1f GB; %.1f GB are free", *sizes)
    if (kept + 1) * size > free:
        log.warning("that does not fit: --max-checkpoints keeps fewer")


def _checkpoint_bytes(state: TrainState) -> int:
    """Of the weights, their average, and the optimizer's averages."""
    of_optimizer = [
        v for member in state.optimizers.members for entry in member.state.values() for v in entry.values()
    ]
    tensors = [*state.model.parameters(), *filter(torch.is_tensor, of_optimizer)]
    tensors += state.ema.parameters() if state.ema is not None else []
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


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
