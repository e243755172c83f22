"""Devices: which are here, in which types they compute, and how long their work takes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from runtime.errors import UserError
from runtime.flags.choices import INT8, PRECISION_NAMES
from runtime.logging import get_logger

log = get_logger(__name__)

PRECISIONS = dict(
    zip(PRECISION_NAMES, (torch.float32, torch.float32, torch.bfloat16, torch.float16), strict=True)
)
"""What the choices of the precision flags mean."""
DECODING_PRECISIONS = PRECISIONS | {INT8: torch.int8}
"""Of programs that only decode: weights of 8 bits too."""


def pick_device(device: str, local_rank: int = 0) -> torch.device:
    """The device of a `--device` flag: "auto" (an NVIDIA or AMD GPU, else the CPU), "cpu", "cuda" or "mps".

    Raises:
      UserError: a GPU that is not here, more ranks than GPUs on this machine, or another word.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return torch.device("cpu")
    if device == "mps":
        if local_rank:
            raise UserError("--device mps: an Apple GPU serves one process; lower --nproc_per_node to 1")
        return require_device(device)
    if device != "cuda":
        raise UserError(f"--device {device!r} is not known; use auto, cpu, cuda or mps")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"local rank {local_rank} wants GPU {local_rank}, but torch sees {torch.cuda.device_count()} "
            "GPU(s); lower --nproc_per_node or pass --device cpu"
        )
    return torch.device("cuda", local_rank)


def num_cpu_ranks(most: int = 4) -> int:
    """How many ranks share a small training best on this machine: one where there is a GPU, else one a core
    that this process may use; a power of two, which divides batches, and at most `most`: each holds a model.
    """
    if torch.cuda.is_available():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 << min(cores, most).bit_length() - 1


def require_device(device: str | torch.device) -> torch.device:
    """The device of a name such as "cpu", "cuda", "cuda:1" or "mps".

    Raises:
      UserError: an unknown name, or a device that is not here, with those that are.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise UserError(f"device {device!r} is not known; use one of {', '.join(_here())}") from None
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if found.type in there and not there[found.type]():
        reason = {
            "cuda": "torch sees no GPU (a CPU-only build of torch, or no driver)",
            "mps": "torch sees no Apple GPU (macOS 12.3 and Apple silicon have it)",
        }[found.type]
        raise UserError(f"device {str(device)!r}: {reason}; use one of {', '.join(_here())}")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {str(device)!r}: torch sees {torch.cuda.device_count()} GPU(s), from cuda:0")
    return found


def accelerator() -> torch.device:
    """The GPU that is here.

    Raises:
      UserError: there is none.
    """
    names = _here()
    if len(names) == 1:
        raise UserError("no GPU here: everything stays on the CPU, and there is nothing to offload from")
    return torch.device(names[0])


def _here() -> list[str]:
    """Names of the devices that work here, the fastest first."""
    names = [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()), ("cpu", True)]
    return [name for name, here in names if here]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device's products are faster in bfloat16 than in float32: on CPUs a matter of the kind.

    One without such products is eighty times as slow, Intel's without AMX half as fast, AMD's twice. It is
    measured once, in some milliseconds.
    """
    return device.type != "cpu" or _cpu_multiplies_bfloat16()


@cache
def _cpu_multiplies_bfloat16() -> bool:
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    half, whole = (_seconds_of_product(dtype) for dtype in (torch.bfloat16, torch.float32))
    return half < whole


def _seconds_of_product(dtype: torch.dtype, tries: int = 8) -> float:
    """Of the calling thread, the best of some tries, so that what else runs does not count."""
    left, right = torch.ones(512, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    times = []
    with torch.inference_mode():
        for _ in range(tries):
            start = time.thread_time()
            left @ right
            times.append(time.thread_time() - start)
    return min(times)


@contextmanager
def subnormals_as_zero(device: torch.device) -> Iterator[None]:
    """Inside, numbers below 1e-38 count as zero on CPUs: in this thread and in those it starts.

    The gradients of sharp predictions are full of them, and Intel's processors take a hundred times as long
    for each: stage 2 of R-GPT-mini trained at 7 samples a second there, and trains at 33.
    """
    if device.type != "cpu":
        yield
        return
    before = torch.tensor(1e-40).mul(1).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def autocast(device: torch.device, mixed_precision: str) -> torch.autocast:
    """The autocast context of a `--mixed-precision` choice; "none" computes in the weights' own type.

    So does "bf16" where the device is no faster in bfloat16: it is asked for to be fast.
    """
    dtype = computing_type(device, mixed_precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)


def computing_type(device: torch.device, mixed_precision: str) -> torch.dtype:
    """The type of the products under such an autocast."""
    dtype = PRECISIONS[mixed_precision]
    if dtype is torch.bfloat16 and not multiplies_bfloat16(device):
        _say_float32_instead()
        return torch.float32
    return dtype


@cache
def _say_float32_instead() -> None:
    log.info("products in bfloat16 are slower than in float32 on this CPU: float32 is used in its place")


def loss_scaler(device: torch.device, mixed_precision: str) -> torch.amp.GradScaler:
    """What keeps small gradients of fp16 from vanishing; with the other choices it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=mixed_precision == "fp16")


def widest_float(device: torch.device | str) -> torch.dtype:
    """float64, but float32 on Apple GPUs, which have no other."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


@contextmanager
def timed(seconds: dict[str, float], name: str, device: torch.device) -> Iterator[None]:
    """Adds the seconds of a block to `seconds[name]`, with the device's work included."""
    start = _now(device)
    yield
    seconds[name] = seconds.get(name, 0.0) + _now(device) - start


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
