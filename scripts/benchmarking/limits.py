"""What the machine can do at most, and what the network needs at least."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from autoregressive.models.config import ModelConfig
from autoregressive.models.flops import head_parameters, trunk_parameters
from scripts.benchmarking.measure import Clock

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Limits:
    """Bytes a second of the memory and operations a second of matrix products, by type."""

    bandwidth: float
    matrix: dict[str, float]
    bandwidths: dict[str, float]


def measure_limits(clock: Clock, asked: Collection[str], *, quick: bool) -> Limits:
    """Measures the machine with all the threads that are set.

    The rate of a type that is not asked for may take minutes: on CPUs without bfloat16, its own.

    Bandwidth is the best of copy and triad (McCalpin's STREAM) and of reading alone, over arrays far larger
    than any cache; the matrix rate the best of several square products.
    """
    device, on_gpu = clock.device, clock.device.type == "cuda"
    megabytes = 8 if quick else 4096 if on_gpu else 512
    side = 128 if quick else 8192 if on_gpu else 2048
    elements = megabytes * 2**20 // 4
    a, b = torch.ones(elements, device=device), torch.ones(elements, device=device)
    out = torch.empty_like(a)
    kernels = {
        "copy": (lambda: out.copy_(a), 2),
        "triad": (lambda: torch.add(a, b, alpha=0.5, out=out), 3),
        "read": (lambda: a.sum(), 1),
    }
    bandwidths = {
        name: arrays * a.nbytes / _quickest(clock, work) for name, (work, arrays) in kernels.items()
    }
    matrix = {}
    for name, dtype in DTYPES.items():
        if name not in asked and name != "fp32" and not on_gpu:
            continue
        left = torch.randn(side, side, device=device, dtype=dtype)
        product = torch.empty_like(left)
        matrix[name] = 2 * side**3 / _quickest(clock, lambda x=left, y=product: torch.mm(x, x, out=y))
    return Limits(max(bandwidths.values()), matrix, bandwidths)


def _quickest(clock: Clock, work: Callable[[], object]) -> float:
    """Seconds; the first call does not count."""
    return min([clock.time(work) for _ in range(6)][1:])


def describe_machine(device: torch.device) -> dict[str, object]:
    """Processor, cores, load and versions."""
    facts: dict[str, str] = {}
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    machine = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": facts.get("model name") or platform.processor() or platform.machine(),
        "cpu_family_and_model": [facts.get("cpu family"), facts.get("model")],
        "matrix_instructions": [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(device),
    }
    if device.type == "cuda":
        machine |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return machine


def editing_slots(config: ModelConfig, text_slots: int, edited: int) -> int:
    """Slots of an edit in training: text · source · marks · all edited codes but the last, only a target."""
    return text_slots + 2 * config.block_size + edited - 1


def slot_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Keys and values of one slot of one row, all layers."""
    return 2 * config.n_layer * config.dim * dtype.itemsize


def decode_bytes(config: ModelConfig, dtype: torch.dtype, live_slots: float, rows: int) -> float:
    """What one decoding step has to read: the trunk, the head, and every live slot of every row."""
    weights = (trunk_parameters(config) + head_parameters(config)) * dtype.itemsize
    return weights + rows * live_slots * slot_bytes(config, dtype)
