"""Encoded images on their way from an archive to a folder: checked, and kept byte for byte where possible."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from PIL import Image
from torch import Tensor

from dataset.records.images import load_image
from dataset.records.parquet import image_bytes
from runtime.files import write_atomic

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif", "MPO": ".jpg"}
# MPO: what phones write, a JPEG with further pictures behind it; the first one counts.


@dataclass(frozen=True)
class ImageBytes:
    """An image file in memory; stands where a path stands in `records.images`; `origin` names it."""

    data: bytes
    origin: str

    def open(self, mode: str = "rb") -> IO[bytes]:
        return io.BytesIO(self.data)

    def __str__(self) -> str:
        return self.origin


@dataclass(frozen=True)
class EncodedImage:
    """A checked image file: its bytes, the suffix that fits them, (width, height) once upright."""

    data: bytes
    suffix: str
    size: tuple[int, int]


def image_cell(cell: Any, origin: str) -> ImageBytes:
    """The image of a parquet cell that has been read."""
    return ImageBytes(image_bytes(cell, origin), origin)


def check_image(source: ImageBytes, image_format: str = "original") -> EncodedImage:
    """Decodes an image to see that it is whole, and gives the bytes to store.

    Args:
      source: of an allowed format; it is named in errors.
      image_format: "original" stores the bytes as they are; "png" and "jpg" (quality 95, no chroma
        subsampling) encode the pixels anew unless the bytes are of that format already.
    Raises:
      UserError: as `load_image`.
    """
    image = load_image(source)
    with Image.open(io.BytesIO(source.data), formats=tuple(SUFFIXES)) as header:
        suffix = SUFFIXES[header.format]
    if image_format == "original" or suffix == f".{image_format}":
        return EncodedImage(source.data, suffix, image.size)
    stream = io.BytesIO()
    if image_format == "png":
        image.save(stream, "PNG")
    else:
        image.save(stream, "JPEG", quality=95, subsampling=0)
    return EncodedImage(stream.getvalue(), f".{image_format}", image.size)


def region_png(region: Tensor) -> bytes:
    """(H, W) in [0, 1], 1 = edit -> the bytes of a grey PNG, white = edit."""
    stream = io.BytesIO()
    Image.fromarray(region.mul(255).round().to(torch.uint8).numpy()).save(stream, "PNG")
    return stream.getvalue()


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    write_atomic(path, lambda temporary: temporary.write_bytes(data))
