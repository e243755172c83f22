"""Pixel masks and token masks: the only code that pools one into the other, or spreads it back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.errors import UserError

RULES = ("published", "exact")
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
    region = mask > 0.5
    if not region.any():
        raise EmptyMaskError(
            f"the {mask.shape[2]}x{mask.shape[1]} mask marks no pixel to edit (none is above 0.5); "
            "paint the region to edit in white"
        )
    if rule == "exact":
        return _pool_exact(region[0], grid)
    if rule == "published":
        return _pool_published(region, grid)
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


def _pool_published(region: Tensor, grid: int) -> Tensor:
    side = _PUBLISHED_SIDE
    large = F.interpolate(region[None].float(), size=(side, side), mode="bicubic", align_corners=False)
    if side % grid == 0:
        cells = F.max_pool2d(large, kernel_size=side // grid)
    else:
        cells = F.adaptive_max_pool2d(large, grid)
    return cells.flatten() > 0


def _pool_exact(region: Tensor, grid: int) -> Tensor:
    rows, columns = region.nonzero(as_tuple=True)
    row_cells = _cell_of_each_pixel(region.shape[0], grid).to(region.device)[rows]
    column_cells = _cell_of_each_pixel(region.shape[1], grid).to(region.device)[columns]
    edit_mask = torch.zeros(grid * grid, dtype=torch.bool, device=region.device)
    edit_mask[row_cells * grid + column_cells] = True
    return edit_mask


def _cell_of_each_pixel(length: int, grid: int) -> Tensor:
    edges = torch.tensor([round(index * length / grid) for index in range(grid + 1)])
    return torch.repeat_interleave(torch.arange(grid), edges.diff())
