"""A picture of originals beside their reconstructions."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from runtime.pictures import save_picture, to_pixels

_GAP = 2
_PAIRS_PER_ROW = 4


def save_pairs(path: str | Path, images: Tensor, reconstructions: Tensor) -> None:
    """Writes original | reconstruction pairs as one picture, four pairs a row on white.

    Args:
      images, reconstructions: (B, 3, H, W) in [-1, 1].
    """
    pairs = torch.cat([images, reconstructions], dim=3)
    pairs = torch.nn.functional.pad(pairs, (_GAP, _GAP, _GAP, _GAP), value=1.0)
    pairs = torch.cat([pairs, pairs.new_ones(-len(pairs) % _PAIRS_PER_ROW, *pairs.shape[1:])])
    rows = [torch.cat(list(row), dim=2) for row in pairs.split(_PAIRS_PER_ROW)]
    save_picture(Image.fromarray(to_pixels(torch.cat(rows, dim=1))), path)
