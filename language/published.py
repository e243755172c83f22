"""What the published models read their texts with; flags name it, so it does without PyTorch."""

from __future__ import annotations

from pathlib import Path

DEFAULT_T5 = "flan-t5-xl"
PUBLISHED_FOLDER = Path("pretrained_models/t5-ckpt")
MAX_TOKENS = 120  # text slots of every published model
