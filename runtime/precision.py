"""What the precision flags mean."""

from __future__ import annotations

from functools import cache

import torch

from runtime.flags.choices import INT8, PRECISION_NAMES
from runtime.logging import get_logger

log = get_logger(__name__)

PRECISIONS = dict(
    zip(PRECISION_NAMES, (torch.float32, torch.float32, torch.bfloat16, torch.float16), strict=True)
)
DECODING_PRECISIONS = PRECISIONS | {INT8: torch.int8}


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has products in bfloat16; a CPU without them is eighty times as slow."""
    return device.type != "cpu" or _cpu_multiplies_bfloat16()


@cache
def _cpu_multiplies_bfloat16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def autocast(device: torch.device, mixed_precision: str) -> torch.autocast:
    """The autocast context of a `--mixed-precision` choice; "none" computes in the weights' own type.

    So does "bf16" where the device has no products in bfloat16: it is asked for to be fast.
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
    log.info("this CPU has no products in bfloat16: float32 is used in its place, which is faster here")


def loss_scaler(device: torch.device, mixed_precision: str) -> torch.amp.GradScaler:
    """What keeps small gradients of fp16 from vanishing; with the other choices it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=mixed_precision == "fp16")
