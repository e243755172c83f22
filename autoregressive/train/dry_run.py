"""What a training would take, found out without a step: `--dry-run`."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from autoregressive.layout import SequenceLayout
from autoregressive.models.gpt import Transformer
from autoregressive.models.loss import CHUNK, SupervisedLoss
from autoregressive.pipeline import EditingPipeline
from autoregressive.train.config import TrainConfig
from autoregressive.train.inputs import MakeInputs
from autoregressive.train.loop import count_steps, make_sampler
from autoregressive.train.preview import save_rows, show_batch
from dataset.samples import EditBatch, T2IBatch, collate_samples
from runtime.distributed import Distributed
from runtime.logging import get_logger
from runtime.optim import build_optimizer
from runtime.precision import autocast

log = get_logger(__name__)
GB = 1e9
MAX_SHOWN = 8
# Of a step, in forward passes: the backward pass costs two, and the optimizer a little.
STEP_IN_FORWARDS, RECOMPUTING_STEP = 3.1, 4.1


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at the height of a step."""

    running: int
    """What the process holds already: libraries, encoders, data, the model's weights."""
    optimizer: int
    average: int
    buckets: int
    """In which several ranks add up their gradients."""
    backward: int
    """Activations, or the gradients for which a backward pass exchanges them, whichever is more."""

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def dry_run(
    model: Transformer,
    dataset: Dataset,
    make_inputs: MakeInputs,
    config: TrainConfig,
    ranks: Distributed,
    pipeline: EditingPipeline,
) -> Memory:
    """Prints what the run would take, and writes `first_batch.png`; every rank must call it.

    The forward pass of the first micro-batch is run, its time and what it would keep for the backward pass
    are measured; all else is counted.
    """
    sampler = make_sampler(dataset, config, ranks)
    steps = count_steps(config, sampler)
    batch = collate_samples([dataset[key] for key in next(iter(sampler))])
    layout, text = make_inputs(batch, 0)
    activations, seconds = _forward(model, layout, text, config, ranks.device)
    memory = _memory(model, layout, activations, config, ranks)
    per_step = seconds * config.gradient_accumulation_steps
    per_step *= RECOMPUTING_STEP if config.activation_checkpointing else STEP_IN_FORWARDS
    if ranks.is_main:
        _report(model, layout, memory, steps, per_step, config, sampler.num_samples, ranks)
        picture = _picture(pipeline, batch, config)
        log.info("first batch      %s: %s", picture, "; ".join(map(_words, batch.texts[:3])))
        for problem in filter(None, batch.problems):
            log.warning("a sample that would be left out: %s", problem)
    ranks.barrier()
    return memory


def _forward(
    model: Transformer, layout: SequenceLayout, text: Tensor, config: TrainConfig, device: torch.device
) -> tuple[int, float]:
    """Bytes that a forward pass keeps for the backward one, and its seconds."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()  # all live until the loss goes: no address comes twice
        return tensor

    network = SupervisedLoss(model).train()
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    seconds = []
    for watch in (hooks, contextlib.nullcontext()):
        _wait(device)
        start = time.perf_counter()
        with watch, autocast(device, config.mixed_precision):
            loss = network(layout, text)
        _wait(device)
        seconds.append(time.perf_counter() - start)
        del loss
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(kept.values()), min(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(
    model: Transformer, layout: SequenceLayout, activations: int, config: TrainConfig, ranks: Distributed
) -> Memory:
    weights = _bytes(model)
    # The logits of a chunk, their float32 copy and their gradient.
    scored = min(len(layout.supervised), CHUNK) * model.config.vocab_size
    activations += 2 * 4 * scored
    several = config.gradient_accumulation_steps > 1  # then gradients are there before the activations
    return Memory(
        running=_held(ranks.device),
        optimizer=_optimizer_bytes(model, config),
        average=weights if config.ema_decay > 0 else 0,
        buckets=weights if ranks.world_size > 1 else 0,
        backward=activations + weights if several else max(activations, weights),
    )


def _optimizer_bytes(model: Transformer, config: TrainConfig) -> int:
    """Of AdamW's two averages of each weight, Muon's one, SGD's none."""
    optimizers = build_optimizer(
        model,
        config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        betas=(config.beta1, config.beta2),
        muon_lr=config.muon_lr,
    )
    copies = {"AdamW": 2, "Muon": 1, "SGD": 0}
    return sum(
        copies[type(member).__name__] * sum(p.numel() * p.element_size() for p in group["params"])
        for member in optimizers.members
        for group in member.param_groups
    )


def _held(device: torch.device) -> int:
    """What the process holds now: of the GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def _available(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _report(
    model: Transformer,
    layout: SequenceLayout,
    memory: Memory,
    steps: int,
    per_step: float,
    config: TrainConfig,
    num_samples: int,
    ranks: Distributed,
) -> None:
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    device, available = ranks.device, _available(ranks.device)
    log.info("model            %s, %.2f M parameters on %s", config.gpt_model, millions, device)
    log.info("ranks            %d, %d sample(s) a step on each", ranks.world_size, _per_rank(config, ranks))
    parts = ", ".join(f"{name} {size / GB:.2f}" for name, size in asdict(memory).items() if size)
    log.info("memory per rank  %.2f GB: %s; %.1f GB are free", memory.total / GB, parts, available / GB)
    if memory.total - memory.running > available / (ranks.world_size if device.type == "cpu" else 1):
        log.warning("that does not fit: a smaller batch, --activation-checkpointing or more ranks take less")
    passes = steps * config.global_batch_size / num_samples
    batch = config.global_batch_size
    log.info("steps            %d of %d samples: %.2f passes over %d", steps, batch, passes, num_samples)
    slots = int(layout.used_slots().sum()) * ranks.world_size * config.gradient_accumulation_steps
    rate, hours = slots / per_step, per_step * steps / 3600
    log.info("speed, a guess   %.3g s a step, %.3g tokens/s, %.1f hours in all", per_step, rate, hours)
    size = _bytes(model) + memory.optimizer + memory.average
    saves = -(-steps // config.ckpt_every)
    saves += 0 if config.no_epoch_save else int(passes)
    kept = min(saves, config.max_checkpoints) if config.max_checkpoints > 0 else saves
    folder = Path(config.results_dir).resolve()
    free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    sizes = (size / GB, kept, kept * size / GB, free / GB)
    log.info("disk             %.2f GB a checkpoint, %d kept: %.1f GB; %.1f GB are free", *sizes)
    if (kept + 1) * size > free:
        log.warning("that does not fit: --max-checkpoints keeps fewer")


def _per_rank(config: TrainConfig, ranks: Distributed) -> int:
    return config.global_batch_size // ranks.world_size


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
