"""Pictures on disk: in the format that their suffix says, whole or absent, with their colour profile."""

from __future__ import annotations

import io
import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFont

from runtime.errors import UserError
from runtime.files import write_atomic
from runtime.logging import get_logger

if TYPE_CHECKING:  # flags are read, with what needs this file, before PyTorch is imported
    from torch import Tensor

log = get_logger(__name__)

FORMATS = {".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""By suffix. All but JPEG keep every pixel."""
_ENCODING = {"WEBP": {"lossless": True, "exact": True}, "JPEG": {"quality": 95, "subsampling": 0}}
_NOT_HELD = {("JPEG", "RGBA"), ("BMP", "RGBA"), ("JPEG", "I;16"), ("BMP", "I;16"), ("WEBP", "I;16")}
_LONGEST_SIDE = {"WEBP": 16_383, "JPEG": 65_500}
_HIGHEST_DPI = 65_535  # what a JPEG can say


def to_pixels(images: Tensor) -> np.ndarray:
    """(..., 3, H, W) in [-1, 1], which values may exceed, → (..., H, W, 3) uint8."""
    pixels = ((images.float() + 1) * 127.5).round().clamp(0, 255).byte()
    return pixels.movedim(-3, -1).contiguous().cpu().numpy()


def require_saveable(path: str | Path, size: tuple[int, int] | None = None, mode: str | None = None) -> str:
    """The format in which `save_picture` will write `path`; told before the work, not after it.

    Args:
      size: (width, height) of the picture, where it is known.
      mode: its Pillow mode, likewise.
    Raises:
      UserError: a suffix that no format has, more pixels a side than the format takes, or transparency or 16
        bits where it has none.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(
            f"{path}: pictures are not written as {suffix or 'files without a suffix'}; use one of "
            f"{', '.join(FORMATS)}"
        )
    name = FORMATS[suffix]
    if size is not None and max(size) > _LONGEST_SIDE.get(name, max(size)):
        raise UserError(
            f"{path}: {size[0]}x{size[1]} is more than a {name} file takes, {_LONGEST_SIDE[name]} pixels a "
            "side; write .png"
        )
    if (name, mode) in _NOT_HELD:
        what = "transparency" if mode == "RGBA" else "16-bit grey"
        raise UserError(f"{path}: a {name} file has no place for the picture's {what}; write .png")
    if name == "JPEG":
        _notice_loss(suffix)
    return name


def save_picture(image: Image.Image, path: str | Path, *, optimize: bool = False) -> None:
    """Writes a picture whole or not at all, with what `kept_info` keeps.

    Args:
      path: its suffix, one of `FORMATS`, says the format.
      optimize: smaller PNG files, slowly.
    Raises:
      UserError: as `require_saveable`, and if the disk fails.
    """
    name = require_saveable(path, image.size, image.mode)
    options = _options(image, name) | ({"optimize": True} if optimize else {})
    if name == "BMP" and "icc_profile" in options:
        log.warning("%s: a BMP file has no place for the picture's colour profile; write .png", path)
    write_atomic(path, lambda temporary: image.save(temporary, format=name, **options))


def encode_picture(image: Image.Image, suffix: str, quality: int | None = None) -> bytes:
    """What `save_picture` would write to a file with that suffix.

    Args:
      quality: 0 to 100, of a WebP or JPEG file that loses some; None for what `save_picture` writes.
    Raises:
      UserError: as `require_saveable`.
    """
    name, stream = require_saveable(f"picture{suffix}", image.size, image.mode), io.BytesIO()
    options = _options(image, name) | ({} if quality is None else {"quality": quality, "lossless": False})
    image.save(stream, format=name, **options)
    return stream.getvalue()


def _options(image: Image.Image, name: str) -> dict[str, Any]:
    return _ENCODING.get(name, {}) | kept_info(image)


def kept_info(image: Image.Image) -> dict[str, Any]:
    """What a picture says of itself that holds for edits of it too: entries of its `info`.

    Its "icc_profile", if that is one of pictures of its mode: RGB, or grey for 16-bit grey. Its "dpi".
    Not EXIF: pictures are turned upright as they are read.
    """
    kept: dict[str, Any] = {}
    profile, dpi = image.info.get("icc_profile"), image.info.get("dpi")
    space = {"RGB": b"RGB ", "RGBA": b"RGB ", "I;16": b"GRAY"}.get(image.mode)
    if isinstance(profile, bytes) and profile[16:20] == space:
        kept["icc_profile"] = profile
    if isinstance(dpi, tuple) and len(dpi) == 2 and all(_is_dpi(value) for value in dpi):
        kept["dpi"] = tuple(map(float, dpi))
    return kept


def like(pixels: np.ndarray, source: Image.Image) -> Image.Image:
    """A picture of (H, W, 3 or 4) uint8 or (H, W) uint16 pixels that keeps the source's `kept_info`."""
    picture = Image.fromarray(pixels)
    picture.info.update(kept_info(source))
    return picture


def _is_dpi(value: Any) -> bool:
    try:
        return math.isfinite(value) and 1 <= value <= _HIGHEST_DPI
    except (TypeError, ValueError, ArithmeticError):  # a fraction over 0
        return False


@lru_cache
def _notice_loss(suffix: str) -> None:
    """Once a run."""
    log.warning(
        "pictures go to %s files: JPEG changes all pixels a little, also those that an edit leaves alone; "
        "write .png, .webp or .bmp to keep them bit for bit",
        suffix,
    )


def shortened(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """One line of `text` that is at most `room` pixels wide, its end replaced by "..." if need be."""
    text = " ".join(text.split())
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "...") > room:
        text = text[:-1]
    return text.rstrip() + "..."
