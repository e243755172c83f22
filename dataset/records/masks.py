"""Masks, from disk or handed over: which pixels of a picture each marks."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataset.records.images import (
    ImageSource,
    decoded,
    opacity_of,
    open_first_frame,
    to_numpy,
    to_rgb,
    upright,
)
from runtime.errors import UserError
from runtime.logging import get_logger

log = get_logger(__name__)

MAGICBRUSH_SPARE = 0.02  # by this share the sides' ratios of its masks and images may differ
_FAR_BELOW = 16  # a mask whose largest value is in the first of so many parts of its range
Region = TypeVar("Region", np.ndarray, Tensor)


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
    image = upright(open_first_frame(source))
    if size is not None and image.size != tuple(size):
        raise UserError(
            f"{source}: the mask is {image.width}x{image.height} but its image is {size[0]}x{size[1]}; "
            "save the mask at the image's size"
        )
    return edit_region(image, str(source))


def load_magicbrush_mask(source: str | ImageSource) -> Tensor:
    """Reads a MagicBrush mask: transparent pixels are to be edited.

    Copies that lost their transparency show the region in pure black; they are read that way, with a warning.

    Returns:
      (H, W) float32, 0 or 1; 1 = edit. The size may differ from the image's.
    """
    image = upright(open_first_frame(source))
    transparent = _transparent_region(image, str(source))
    if transparent is not None:
        return transparent
    log.warning("%s has no transparent pixels; taking pure black as the region to edit", source)
    black = (np.array(to_rgb(image)) == 0).all(axis=2)
    return torch.from_numpy(black).float()


def edit_region(mask: Image.Image | np.ndarray | Tensor, name: str = "the mask") -> Tensor:
    """The pixels that a mask marks: one rule for files, tables, arrays and tensors.

    Above half of a type's range means edit (`marked`): booleans and floats end at 1, whole numbers of 8 and
    16 bits where their type does. Wider ones have no range of their own: 0 and 1 alone are no and yes, others
    bytes or, above 255, 16 bits. Colours count as their grey. In a PIL image with transparent pixels it is
    these (MagicBrush's), whatever their colour.

    Args:
      mask: a PIL image of any mode; else numbers, (H, W).
      name: names it in errors: a file, or which argument.
    Returns:
      (H, W) float32 in [0, 1], shares of the range; above 0.5 = edit. A mask of nothing but 0 marks nothing.
    Raises:
      UserError: no numbers, or values that are almost surely meant in another range: outside of their own
        (floats have half of it to spare, for what interpolation overshoots), or all far below its end.
    """
    if isinstance(mask, Image.Image) and 0 in mask.size:
        return torch.zeros(mask.height, mask.width)
    if isinstance(mask, Image.Image):
        mask = upright(decoded(mask))
        transparent = _transparent_region(mask, name)
        if transparent is not None:
            return transparent
        values = _grey_values(mask)
    else:
        values = _numbers(mask, name)
    if values.size == 0:
        return torch.zeros(values.shape)
    end = _end_of_range(values)
    _require_range(values, end, name)
    shares = values.astype(np.float32) / np.float32(end)
    return torch.from_numpy(shares.clip(0, 1))


def marked(region: Region) -> Region:
    """The pixels of a region in [0, 1] that count as "edit": bool, of the same shape."""
    return region > 0.5


def fit_region(region: Tensor, size: tuple[int, int], origin: str, spare: float = 0) -> Tensor:
    """Brings a region to its image's size, nearest pixel; refuses one of another shape.

    Args:
      region: (H, W) in [0, 1].
      size: (width, height) of the image.
      origin: names the mask in errors.
      spare: share by which the sides' ratios may differ, beyond a pixel's rounding.
    """
    require_shape(region, size, origin, spare)
    if region.shape == tuple(size[::-1]):
        return region
    return torch.nn.functional.interpolate(region[None, None], size[::-1], mode="nearest")[0, 0]


def require_shape(region: Region, size: tuple[int, int], origin: str, spare: float = 0) -> None:
    """Raises `UserError` for a region of another shape than its image. Args as in `fit_region`."""
    height, width = region.shape
    if abs(width * size[1] - height * size[0]) > max(*size, width, height, spare * width * size[1]):
        raise UserError(
            f"{origin}: the mask is {width}x{height}, of another shape than its image {size[0]}x{size[1]}; "
            "save the mask at the image's size"
        )


def _transparent_region(image: Image.Image, name: str) -> Tensor | None:
    """(H, W) float32, 1 where `image` is transparent; None if it is so nowhere. Raises as `edit_region`."""
    alpha = opacity_of(image)
    if alpha is None:
        return None
    _require_range(alpha, 255, f"{name}, its opacity")
    transparent = alpha < 128
    return torch.from_numpy(transparent).float() if transparent.any() else None


def _grey_values(image: Image.Image) -> np.ndarray:
    """(H, W) numbers of the type whose range the picture's values have."""
    if image.mode == "1" or image.mode == "F":
        return np.array(image)
    if image.mode.startswith("I"):  # where Pillow puts 16 bits, see `to_rgb`
        values = np.array(image)
        return values.astype(np.uint16) if 0 <= values.min() and values.max() <= 65535 else values
    return np.array(to_rgb(image).convert("L"))


def _numbers(mask: object, name: str) -> np.ndarray:
    if isinstance(mask, Tensor) and not mask.is_complex():
        return to_numpy(mask)
    if isinstance(mask, np.ndarray) and mask.dtype.kind in "biuf":
        return mask
    kind = f"of {mask.dtype}" if isinstance(mask, np.ndarray | Tensor) else f"a {type(mask).__name__}"
    raise UserError(f"{name} is {kind}: give numbers, above half of their range = edit")


def _end_of_range(values: np.ndarray) -> int:
    """The value that means edit for certain."""
    if values.dtype.kind in "bf":
        return 1
    if values.dtype.itemsize <= 2:
        return int(np.iinfo(values.dtype).max)
    return next((end for end in (1, 255) if values.max() <= end), 65535)


def _require_range(values: np.ndarray, end: int, name: str) -> None:
    """Raises `UserError` where the values are almost surely meant in another range than 0 to `end`."""
    lowest, highest = values.min().item(), values.max().item()
    spare = 0.5 if values.dtype.kind == "f" else 0
    inside = -spare <= lowest and highest <= end + spare  # NaN is not
    if inside and not 0 < highest < end / _FAR_BELOW:
        return
    times = next((t for t in (65535, 257, 255) if end / 2 < highest * t <= 1.001 * end), None)
    parts = next((p for p in (255, 65535) if -p / 2 <= lowest and p / _FAR_BELOW < highest <= 1.5 * p), None)
    fix = f"bring it to 0 to {end}"
    if inside and times:
        fix = f"multiply it by {times}"
    elif end == 1 and parts:
        fix = f"divide it by {parts}"
    raise UserError(
        f"{name}: its values go from {lowest:g} to {highest:g}, but those of {values.dtype} from 0 to {end}, "
        f"and above half of that is edited: {fix}"
    )
