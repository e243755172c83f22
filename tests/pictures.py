"""Small pictures that several tests use."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

SIZE = 16


def picture(seed: int = 0, size: int = SIZE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 200, (size, size, 3), dtype=np.uint8))


def square_mask(size: int = SIZE) -> Image.Image:
    """White in 4×4 pixels of the first rows, black elsewhere."""
    mask = np.zeros((size, size), dtype=np.uint8)
    mask[:4, 4:8] = 255
    return Image.fromarray(mask)


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
