"""Images as the evaluators read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dataset.records.images import load_image, open_first_frame
from dataset.records.masks import edit_region, marked
from runtime.errors import UserError


def load_rgb(path: str | Path) -> np.ndarray:
    """Reads an image as (H, W, 3) uint8 RGB, as samplers and trainings do: see `load_image`.

    Raises:
      UserError: if the file is missing, damaged, of a format not allowed, or too large.
    """
    return np.asarray(load_image(path))


def load_region(path: str | Path) -> np.ndarray:
    """Reads the region an edit was allowed to change as (H, W) bool; above half grey counts as inside.

    Raises:
      UserError: as `load_rgb` and `edit_region`, and for an image with transparency, whose meaning would be
        the opposite in MagicBrush masks (transparent = edit).
    """
    image = open_first_frame(path)
    if "A" in image.getbands() or "transparency" in image.info:
        raise UserError(
            f"{path}: a region is a greyscale image (255 = may change), this one has transparency"
        )
    return marked(edit_region(image, str(path))).numpy()


def resize_rgb(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes (H, W, 3) uint8 to (height, width, 3), bicubic (PIL's), as MagicBrush's evaluator."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def resize_region(region: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes (H, W) bool to (height, width) by nearest neighbour."""
    if region.shape == (height, width):
        return region
    return np.asarray(Image.fromarray(region).resize((width, height), Image.Resampling.NEAREST))
