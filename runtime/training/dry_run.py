"""What a training would take in memory, time and disk, measured in steps that are thrown away."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.optim import Optimizers
from runtime.training.checkpoints import count_saves

log = get_logger(__name__)
GB = 1e9
_PROC = Path("/proc/self")  # on Linux
STEPS = 2  # the first one makes the optimizer's averages, the second is measured


@dataclass(frozen=True)
class Cost:
    """Of a step, measured."""

    memory: int
    """Bytes of one rank at the step's height, with all that the process holds."""
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a run is going to do."""

    model: str
    modules: tuple[nn.Module, ...]
    """What a checkpoint holds, the model itself first."""
    optimizers: tuple[Optimizers, ...]
    steps: int
    samples: int
    """In the dataset."""
    global_batch_size: int
    ckpt_every: int
    epoch_saves: bool
    max_checkpoints: int
    results_dir: str

    @property
    def passes(self) -> float:
        return self.steps * self.global_batch_size / self.samples

    def num_kept(self) -> int:
        """Checkpoints in the end."""
        epoch = self.samples // self.global_batch_size if self.epoch_saves else 0
        saves = count_saves(self.steps, self.ckpt_every, epoch)
        return min(saves, self.max_checkpoints) if self.max_checkpoints > 0 else saves

    def checkpoint_bytes(self) -> int:
        """Of the weights that train and of the optimizers' averages, once a step has made them."""
        frozen = {n for n, weight in self.modules[0].named_parameters() if not weight.requires_grad}
        frozen |= {f"module.{name}" for name in frozen}  # of averages
        tensors = [t for module in self.modules for n, t in module.state_dict().items() if n not in frozen]
        for member in (member for optimizers in self.optimizers for member in optimizers.members):
            tensors += [v for entry in member.state.values() for v in entry.values() if torch.is_tensor(v)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def measure(step: Callable[[], object], ranks: Distributed, smaller: str) -> Cost:
    """Takes steps and says what the last one cost; every rank must call it.

    Args:
      step: one optimizer step, the loading of its batch left out; it waits for the device.
      smaller: flags that make a step fit, for the error.
    Raises:
      UserError: a step does not fit into the GPU's memory.
    """
    try:
        for _ in range(STEPS):
            ranks.barrier()
            _forget_peak(ranks.device)
            start = time.perf_counter()
            step()
            seconds = time.perf_counter() - start
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"a step does not fit into the GPU's memory: {smaller} takes less ({error})"
        ) from error
    return Cost(_peak(ranks.device), seconds)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _PROC.exists():
        (_PROC / "clear_refs").write_text("5")


def _peak(device: torch.device) -> int:
    """The most the process has held since `_forget_peak`: of the GPU's memory, or of the machine's.

    An Apple GPU says what it holds now, and macOS the most since the process began.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    if _PROC.exists():
        return _kilobytes("/proc/self/status", "VmHWM") * 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes


def _available(device: torch.device) -> int:
    """Bytes that a rank can have, what it holds now included."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    if not _PROC.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (_kilobytes("/proc/meminfo", "MemAvailable") + _kilobytes("/proc/self/status", "VmRSS")) * 1024


def _kilobytes(path: str, name: str) -> int:
    return int(dict(line.split(":") for line in Path(path).read_text().splitlines())[name].split()[0])


def report(plan: Plan, cost: Cost, amount: int, unit: str, ranks: Distributed) -> None:
    """Prints what the run would take.

    Args:
      amount: of `unit` (such as tokens) in a step, over all ranks.
    """
    millions = sum(p.numel() for p in plan.modules[0].parameters()) / 1e6
    steps, batch, samples = plan.steps, plan.global_batch_size, plan.samples
    log.info("model            %s, %.2f M parameters on %s", plan.model, millions, ranks.device)
    log.info("ranks            %d, %d sample(s) a step on each", ranks.world_size, batch // ranks.world_size)
    log.info("memory per rank  %.2f GB; %.1f GB are there", cost.memory / GB, _available(ranks.device) / GB)
    log.info("steps            %d of %d samples: %.2f passes over %d", steps, batch, plan.passes, samples)
    rate, hours = amount / cost.seconds, cost.seconds * steps / 3600
    log.info("speed            %.3g s a step, %.3g %s/s, %.1f hours in all", cost.seconds, rate, unit, hours)
    size, kept = plan.checkpoint_bytes(), plan.num_kept()
    free = shutil.disk_usage(_existing(Path(plan.results_dir).resolve())).free
    sizes = (size / GB, kept, kept * size / GB, free / GB)
    log.info("disk             %.2f GB a checkpoint, %d kept: %.1f GB; %.1f GB are free", *sizes)
    if (kept + 1) * size > free:
        log.warning("that does not fit: --max-checkpoints keeps fewer")


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
