"""What the precision flags mean."""

from __future__ import annotations

import torch

# "none" and "fp32" are two published spellings of full precision.
PRECISIONS = {"none": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, mixed_precision: str) -> torch.autocast:
    """The autocast context of a `--mixed-precision` choice; "none" computes in the weights' own type."""
    dtype = PRECISIONS[mixed_precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)
