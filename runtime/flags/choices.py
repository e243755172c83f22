"""What flags of many programs choose from, by name: without PyTorch, which the names may stand for."""

from __future__ import annotations

PRECISION_NAMES = ("none", "fp32", "bf16", "fp16")
"""Of `runtime.devices`; "none" and "fp32" are two published spellings of full precision."""

INT8 = "int8"
"""Of a program that only decodes: `torch.int8`, see `EditingPipeline.load`."""
