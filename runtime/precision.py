"""What the precision flags mean."""

from __future__ import annotations

import torch

from runtime.flags.choices import PRECISION_NAMES

PRECISIONS = dict(
    zip(PRECISION_NAMES, (torch.float32, torch.float32, torch.bfloat16, torch.float16), strict=True)
)


def autocast(device: torch.device, mixed_precision: str) -> torch.autocast:
    """The autocast context of a `--mixed-precision` choice; "none" computes in the weights' own type."""
    dtype = PRECISIONS[mixed_precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)


def loss_scaler(device: torch.device, mixed_precision: str) -> torch.amp.GradScaler:
    """What keeps small gradients of fp16 from vanishing; with the other choices it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=mixed_precision == "fp16")
