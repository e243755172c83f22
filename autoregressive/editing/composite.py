"""Putting an edit back into its image: which pixels may change, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dataset.edit_masks import cells_to_pixels
from dataset.records.images import as_native, as_seen, edit_region, load_image, load_native, marked
from runtime.errors import UserError
from runtime.pictures import like


def is_one_picture(images: object) -> bool:
    """Whether it is one image, not several."""
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim in (2, 3)
    return isinstance(images, Image.Image | str | Path)


def as_image(picture: Image.Image | np.ndarray | Tensor | str | Path) -> Image.Image:
    """An RGB image of any picture.

    Args:
      picture: a PIL image, taken as viewers show it (`as_seen`); a file's path; a (H, W, 3) array or a
        (3, H, W) tensor of bytes, or of floats in [0, 1]; one of shape (H, W) is grey.
    Raises:
      UserError: another shape, type or range, or nothing in it.
    """
    if isinstance(picture, str | Path):
        return load_image(picture)
    if isinstance(picture, Image.Image):
        if 0 in picture.size:
            raise UserError(f"an image of {picture.width}x{picture.height}: it has no pixels")
        return as_seen(picture)
    if not isinstance(picture, np.ndarray | Tensor):
        raise UserError(
            f"an image of type {type(picture).__name__}: give a PIL image, a path, an array or a tensor"
        )
    kind, shape = ("array", "(H, W, 3)") if isinstance(picture, np.ndarray) else ("tensor", "(3, H, W)")
    if kind == "array":
        pixels = picture
    else:
        pixels = picture.detach().cpu()
        pixels = pixels.float() if pixels.is_floating_point() else pixels  # NumPy has no bfloat16
        pixels = (pixels.movedim(0, -1) if pixels.ndim == 3 else pixels).numpy()
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise UserError(
            f"an image {kind} of shape {tuple(picture.shape)}: it must be {shape}, or (H, W) for grey"
        )
    if pixels.size == 0:
        raise UserError(f"an image {kind} of shape {tuple(picture.shape)}: it has no pixels")
    if pixels.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(pixels))
    if pixels.dtype.kind not in "biuf":
        raise UserError(f"an image {kind} of {pixels.dtype}: give bytes, or floats in [0, 1]")
    if pixels.dtype.kind != "f" or not (0 <= pixels.min() and pixels.max() <= 1):
        raise UserError(
            f"an image {kind} of {pixels.dtype} from {pixels.min()} to {pixels.max()}: give bytes, or floats "
            "in [0, 1]"
        )
    return Image.fromarray(np.ascontiguousarray(np.rint(pixels * 255).astype(np.uint8)))


def as_native_image(picture: Image.Image | np.ndarray | Tensor | str | Path) -> Image.Image:
    """An image of any picture that keeps its transparency and its 16-bit grey, see `as_native`.

    Args:
      picture: as in `as_image`, which it becomes otherwise.
    """
    if isinstance(picture, str | Path):
        return load_native(picture)
    if isinstance(picture, Image.Image) and 0 not in picture.size:
        return as_native(picture)
    return as_image(picture)


def check_mask(
    mask: np.ndarray | Image.Image | Tensor | None, image: Image.Image, name: str = "the mask"
) -> Tensor | None:
    """The mask as a (H, W) bool tensor; None stays None.

    Args:
      mask: see `edit_region`.
      name: names it in errors.
    Raises:
      UserError: as `edit_region`, and for a mask that is not of the image's size.
    """
    if mask is None:
        return None
    region = edit_region(mask, name)
    if region.shape != (image.height, image.width):
        raise UserError(
            f"{name} has the shape {tuple(region.shape)}, the image is {image.width}x{image.height}: "
            f"the mask must be ({image.height}, {image.width})"
        )
    return marked(region)


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
    """`source` with the pixels of `region` (H, W) from `decoded`, which is resized to fit.

    What `kept_info` keeps of the source stays too.
    """
    pixels = np.array(source.convert("RGB"))
    put(pixels, decoded, region)
    return like(pixels, source)


def put(pixels: np.ndarray, decoded: Image.Image, region: Tensor) -> None:
    """Writes the pixels of `region` from `decoded`, which is resized to fit, into a picture or a part of it.

    Args:
      pixels: (H, W, 3) or (H, W, 4) uint8, or (H, W) uint16, changed in place. Opacity stays; the colours
        under it become those that over white look as decoded. Grey gets the luminance.
      decoded: RGB.
      region: (H, W) bool.
    """
    height, width = region.shape
    if decoded.size != (width, height):
        decoded = decoded.resize((width, height), Image.Resampling.BICUBIC)
    chosen = region.numpy()
    if pixels.ndim == 2:
        pixels[chosen] = np.asarray(decoded.convert("L"))[chosen].astype(np.uint16) * 257
        return
    colours = np.asarray(decoded)[chosen]
    if pixels.shape[2] == 4:
        opacity = np.maximum(pixels[chosen][:, 3:], 1) / 255
        colours = (255 - (255 - colours) / opacity).round().clip(0, 255).astype(np.uint8)
    pixels[..., :3][chosen] = colours
