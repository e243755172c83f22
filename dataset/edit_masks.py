"""Pixel masks and token masks: the only code that pools one into the other, or spreads it back."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataset.choices import RULES
from dataset.records.masks import marked
from dataset.transforms import dilate
from runtime.errors import UserError

_PUBLISHED_SIDE = 512


class EmptyMaskError(UserError):
    """A mask that marks nothing: there is nothing to edit."""


def pool_edit_mask(mask: Tensor, grid: int, rule: str = "published") -> Tensor:
    """Marks the token cells that an edit touches (NEP paper, section 2.2).

    Rule "published", as NEP trains: threshold at 0.5, bicubic to 512x512 without antialiasing, largest value
    of each cell, above 0. The bicubic overshoot widens the region by a pixel or two. Rule "exact": a cell is
    edited if and only if one of its own pixels is, cells as in `cells_to_pixels`.

    Args:
      mask: (1, H, W) in [0, 1]; above 0.5 = edit.
      grid: cells per side.
      rule: "published" or "exact".
    Returns:
      (grid * grid,) bool, raster order; at least one is True.
    Raises:
      EmptyMaskError: no pixel is above 0.5.
    """
    assert mask.dim() == 3 and mask.shape[0] == 1, f"mask must be (1, H, W), got {tuple(mask.shape)}"
    region = marked(mask)
    if not region.any():
        raise EmptyMaskError(
            f"the {mask.shape[2]}x{mask.shape[1]} mask marks no pixel to edit (none is above 0.5); "
            "paint the region to edit in white"
        )
    if rule == "exact":
        return _pool_exact(region[0], grid)
    if rule == "published":
        cells = _pool_published(region[0], grid)
        # Above 2048 pixels a side it reads one in several, and may miss a speck: the cells it lies in, then.
        return cells if cells.any() else _pool_exact(region[0], grid)
    raise UserError(f"unknown mask rule {rule!r}; choose one of {', '.join(RULES)}")


def cells_to_pixels(edit_mask: Tensor, grid: int, height: int, width: int) -> Tensor:
    """Spreads a token mask over an image.

    Cell row r covers the pixel rows from round(r*H/grid) up to round((r+1)*H/grid); columns likewise.

    Args:
      edit_mask: (grid * grid,) bool, raster order.
      grid: cells per side.
      height: image height in pixels.
      width: image width in pixels.
    Returns:
      (height, width) bool.
    """
    rows = _cell_of_each_pixel(height, grid).to(edit_mask.device)
    columns = _cell_of_each_pixel(width, grid).to(edit_mask.device)
    return edit_mask.view(grid, grid)[rows][:, columns]


def full_mask(grid: int) -> Tensor:
    """(grid * grid,) bool, every cell edited: what a sample without a mask stands for."""
    return torch.ones(grid * grid, dtype=torch.bool)


def resize_mask(mask: Tensor, pixels: int) -> Tensor:
    """Widens a mask on every side, or shrinks it, with a square brush.

    Shrinking spares what touches the image's border there, and stops before the last pixel would go.

    Args:
      mask: (1, H, W) bool, or float of 0 and 1.
      pixels: how far the outline moves: outwards above 0, inwards below.
    Returns:
      As `mask`; empty only if `mask` is.
    """
    resized = mask.float()
    if pixels > 0:
        resized = dilate(resized, min(pixels, max(mask.shape[1:])))  # more of it widens to the same
    for _ in range(-pixels):
        smaller = _erode(resized, 1)
        if not smaller.any() or torch.equal(smaller, resized):  # a full mask stays full
            break
        resized = smaller
    return resized.to(mask.dtype)


def jitter_mask(mask: Tensor, pixels: int, rng: np.random.Generator) -> Tensor:
    """Widens or shrinks a mask and shifts it, all by random amounts, as hasty hands draw it.

    Args:
      mask: (1, H, W) float of 0 and 1.
      pixels: largest amount of each, below H and W; every whole number up to it is as likely as the others.
      rng: draws the amounts.
    Returns:
      As `mask`; `mask` itself where nothing of it would be left.
    """
    growth, down, right = rng.integers(-pixels, pixels + 1, size=3).tolist()
    resized = dilate(mask, growth) if growth >= 0 else _erode(mask, -growth)
    moved = F.pad(resized, (right, -right, down, -down))
    return moved if moved.any() else mask


def _erode(mask: Tensor, pixels: int) -> Tensor:
    """What `dilate` of the rest leaves: beyond the image's border there is no rest."""
    return 1 - dilate(1 - mask, pixels)


def _pool_published(region: Tensor, grid: int) -> Tensor:
    side = _PUBLISHED_SIDE
    large = region.float() if region.shape == (side, side) else _enlarge(region)
    if side % grid == 0:
        cells = F.max_pool2d(large[None], kernel_size=side // grid)
    else:
        cells = F.adaptive_max_pool2d(large[None], grid)
    return cells.flatten() > 0


def _enlarge(region: Tensor) -> Tensor:
    """`F.interpolate(bicubic, align_corners=False)` to 512x512, as two matrix products over the marked box.

    Several times faster than the general kernel for the usual small region. Only signs matter to the caller,
    and double precision keeps them. Pixels that none of the 512 reads are left out, so that memory does not
    grow with the sides.
    """
    rows_read, vertical = _bicubic_weights(region.shape[0])
    columns_read, horizontal = _bicubic_weights(region.shape[1])
    if len(rows_read) < region.shape[0]:
        region = region[rows_read]
    if len(columns_read) < region.shape[1]:
        region = region[:, columns_read]
    if not region.any():
        return torch.zeros(_PUBLISHED_SIDE, _PUBLISHED_SIDE)
    rows, columns = region.any(dim=1).nonzero().flatten(), region.any(dim=0).nonzero().flatten()
    tall, wide = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    return (vertical[:, tall] @ region[tall, wide].double() @ horizontal[:, wide].T).float()


@lru_cache(maxsize=8)
def _bicubic_weights(length: int) -> tuple[Tensor, Tensor]:
    """The R of `length` pixels that any of 512 reads, and what each of them adds to each of 512.

    One of 512 reads four neighbours, fewer at the borders, so R is 2048 at most. Four neighbours have four
    remainders by 4: with the pixels of one remainder lit, `F.interpolate` shows one weight of each.

    Returns:
      (R,) int64, ascending, and (512, R) float64.
    """
    weights = torch.zeros(_PUBLISHED_SIDE, 4)
    for remainder in range(4):
        lit = torch.zeros(1, 1, length, 1)
        lit[:, :, remainder::4] = 1
        enlarged = F.interpolate(lit, size=(_PUBLISHED_SIDE, 1), mode="bicubic", align_corners=False)
        weights[:, remainder] = enlarged.flatten()
    numbers = torch.arange(_PUBLISHED_SIDE)
    # The first of the four: (number + 0.5) * length / 512 - 0.5, rounded down, is the second.
    first = ((2 * numbers + 1) * length - _PUBLISHED_SIDE) // (2 * _PUBLISHED_SIDE) - 1
    pixels = first[:, None] + (torch.arange(4) - first[:, None]) % 4  # (512, 4), by remainder
    pixels = pixels.clamp(0, length - 1)  # beyond the border nothing is lit: what is added there is 0
    read, column = pixels.unique(return_inverse=True)
    table = torch.zeros(_PUBLISHED_SIDE, len(read), dtype=torch.float64)
    return read, table.scatter_add_(1, column, weights.double())


def _pool_exact(region: Tensor, grid: int) -> Tensor:
    height, width = region.shape
    rows = torch.stack([region[part].any(0) for part in _cells_along(height, grid)])
    return torch.stack([rows[:, part].any(1) for part in _cells_along(width, grid)], dim=1).flatten()


def _cells_along(length: int, grid: int) -> list[slice]:
    """The pixels of each cell along one side."""
    edges = [round(index * length / grid) for index in range(grid + 1)]
    return [slice(first, end) for first, end in pairwise(edges)]


def _cell_of_each_pixel(length: int, grid: int) -> Tensor:
    counts = [part.stop - part.start for part in _cells_along(length, grid)]
    return torch.repeat_interleave(torch.arange(grid), torch.tensor(counts))
