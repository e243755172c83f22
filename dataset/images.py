"""Safe image loading: everything that reads a picture from disk goes through here."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Protocol

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from runtime.errors import UserError
from runtime.files import require_regular, write_atomic
from runtime.logging import get_logger

log = get_logger(__name__)

ALLOWED_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
MAX_PIXELS = 64_000_000

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where Pillow looks for the orientation.
_ORIENTATION_KEYS = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")


class ImageSource(Protocol):
    """Where an image's bytes are: a `Path`, or a cell of a parquet file. `str()` of it names it in errors."""

    def open(self, mode: str = "rb") -> IO[bytes]: ...


def load_image(source: str | ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads one image as 8-bit RGB, upright, with transparency laid over white.

    Args:
      source: a path, or anything else with `open("rb")`.
      max_pixels: largest width * height accepted, checked on the header, before any pixel is decoded.
    Returns:
      A PIL image of mode RGB.
    Raises:
      UserError: missing, not an image, truncated, of a format not allowed or too large; names the file.
    """
    return as_seen(open_image(source, max_pixels))


def as_seen(image: Image.Image) -> Image.Image:
    """The picture as viewers show it: 8-bit RGB, upright by its EXIF orientation, transparency over white."""
    return _to_rgb(_upright(image))


def load_edit_region(source: str | ImageSource, size: tuple[int, int] | None = None) -> Tensor:
    """Reads a mask, see `edit_region`.

    Args:
      source: as for `load_image`.
      size: (width, height) of the image it belongs to, or None to accept any size.
    Returns:
      (H, W) float32 in [0, 1]; 1 = edit.
    Raises:
      UserError: as `load_image`, and for a mask of another size than its image, naming both.
    """
    image = _upright(open_image(source))
    if size is not None and image.size != tuple(size):
        raise UserError(
            f"{source}: the mask is {image.width}x{image.height} but its image is {size[0]}x{size[1]}; "
            "save the mask at the image's size"
        )
    return edit_region(image)


def edit_region(mask: Image.Image) -> Tensor:
    """The pixels that a mask marks: the white ones (the UltraEdit convention).

    In a mask with transparent pixels it is these (MagicBrush's), whatever their colour.

    Returns:
      (H, W) float32 in [0, 1]; 1 = edit.
    """
    mask = _upright(mask)
    transparent = _transparent_region(mask)
    if transparent is not None:
        return transparent
    return torch.from_numpy(np.array(_to_rgb(mask).convert("L"))).float() / 255


def fit_region(region: Tensor, size: tuple[int, int], origin: str) -> Tensor:
    """Brings a region to its image's size, nearest pixel; refuses one of another shape.

    Args:
      region: (H, W) in [0, 1].
      size: (width, height) of the image.
      origin: names the mask in errors.
    """
    height, width = region.shape
    if (width, height) == tuple(size):
        return region
    if abs(width * size[1] - height * size[0]) > max(*size, width, height):  # more than a pixel's rounding
        raise UserError(
            f"{origin}: the mask is {width}x{height}, of another shape than its image {size[0]}x{size[1]}"
        )
    return torch.nn.functional.interpolate(region[None, None], size[::-1], mode="nearest")[0, 0]


def load_magicbrush_mask(source: str | ImageSource) -> Tensor:
    """Reads a MagicBrush mask: transparent pixels are to be edited.

    Copies that lost their transparency show the region in pure black; they are read that way, with a warning.

    Returns:
      (H, W) float32, 0 or 1; 1 = edit. The size may differ from the image's.
    """
    image = _upright(open_image(source))
    transparent = _transparent_region(image)
    if transparent is not None:
        return transparent
    log.warning("%s has no transparent pixels; taking pure black as the region to edit", source)
    black = (np.array(_to_rgb(image)) == 0).all(axis=2)
    return torch.from_numpy(black).float()


def save_png(image: Image.Image, path: Path) -> None:
    """Writes a PNG whole or not at all."""
    write_atomic(path, lambda temporary: image.save(temporary, format="PNG"))


def _transparent_region(image: Image.Image) -> Tensor | None:
    """(H, W) float32, 1 where `image` is transparent; None if it is so nowhere."""
    if not _has_alpha(image):
        return None
    transparent = np.array(image.convert("RGBA").getchannel("A")) < 128
    return torch.from_numpy(transparent).float() if transparent.any() else None


def open_image(source: str | ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens, checks the header, and decodes; mode and orientation stay the file's. Raises as `load_image`."""
    stream_source = Path(source) if isinstance(source, str) else source
    if isinstance(stream_source, Path):
        require_regular(stream_source, "a picture")
    try:
        with stream_source.open("rb") as stream, Image.open(stream, formats=ALLOWED_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise UserError(
                    f"{source}: {image.width}x{image.height} is above the limit of "
                    f"{max_pixels / 1e6:g} megapixels; make it smaller"
                )
            image.load()
            return image
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{source}: no such file") from None
    except UnidentifiedImageError:
        raise UserError(f"{source}: not an image of a known format ({', '.join(ALLOWED_FORMATS)})") from None
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's decoders raise almost anything on damaged files (OSError, SyntaxError, struct.error, ...).
        raise UserError(f"{source}: cannot be read as an image: {error}") from None


def _upright(image: Image.Image) -> Image.Image:
    method = _UPRIGHT.get(_orientation(image))
    if method is None:
        return image
    turned = image.transpose(method)
    for key in _ORIENTATION_KEYS:  # else it would be turned again
        turned.info.pop(key, None)
    return turned


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1  # web images often carry broken EXIF blocks around good pixels


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit grey at 255 instead of scaling it.
        grey = np.clip(np.array(image, dtype=np.int64), 0, 65535)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if _has_alpha(image):
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image.convert("RGB")
