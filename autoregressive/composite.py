"""Putting an edit back into its image: which pixels may change, and nothing else does."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dataset.edit_masks import cells_to_pixels
from runtime.errors import UserError

COMPOSITES = ("cells", "mask", "none", "published")


def check_mask(mask: np.ndarray | Image.Image | None, image: Image.Image) -> Tensor | None:
    """The mask as a (H, W) bool tensor; None stays None.

    Raises:
      UserError: it is not of the image's size.
    """
    if mask is None:
        return None
    tensor = torch.from_numpy(np.array(mask, dtype=np.float32))
    if tensor.shape != (image.height, image.width):
        raise UserError(
            f"the mask has the shape {tuple(tensor.shape)}, the image is {image.width}x{image.height}: "
            f"the mask must be ({image.height}, {image.width})"
        )
    return tensor > 0.5


def changed_region(
    composite: str, edit_mask: Tensor, pixel_mask: Tensor | None, grid: int, size: tuple[int, int]
) -> Tensor:
    """Which pixels come from the decoder.

    Args:
      composite: "cells" (the edited cells), "mask" (the masked pixels), "none" (all), "published" (wherever
        the bicubically upsampled token mask is not exactly 0, which leaves a ring around the cells).
      edit_mask: (N,) bool raster.
      pixel_mask: (H, W) bool, or None for an edit without a mask.
      grid: cells per side.
      size: (width, height) of the image.
    Returns:
      (H, W) bool.
    """
    width, height = size
    if composite == "none":
        return torch.ones(height, width, dtype=torch.bool)
    if composite == "mask" and pixel_mask is not None:
        return pixel_mask
    if composite == "published":
        coarse = edit_mask.view(1, 1, grid, grid).float()
        return F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)[0, 0] != 0
    return cells_to_pixels(edit_mask, grid, height, width)


def compose(source: Image.Image, decoded: Image.Image, region: Tensor) -> Image.Image:
    """`source` with the pixels of `region` (H, W) from `decoded`, which is resized to fit."""
    if decoded.size != source.size:
        decoded = decoded.resize(source.size, Image.Resampling.BICUBIC)
    pixels = np.array(source.convert("RGB"))
    chosen = region.numpy()
    pixels[chosen] = np.asarray(decoded)[chosen]
    return Image.fromarray(pixels)
