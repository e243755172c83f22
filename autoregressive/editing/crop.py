"""What the model sees of a picture: a square around each far part of the region, or the whole; and back into
the picture: which pixels may change, and nothing else does.

Letters: N cells, H and W the picture's height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from autoregressive.decoding.engine import Drawn
from autoregressive.decoding.sampling_settings import derived_seed
from autoregressive.editing.arguments import EditOptions
from autoregressive.editing.results import Crop, EditResult
from dataset.edit_masks import cells_to_pixels, full_mask, pool_edit_mask
from runtime.logging import get_logger
from runtime.pictures import like

log = get_logger(__name__)

MOST_CROPS = 8
"""Of one picture; a region with more parts far from each other is seen in one piece."""
_MOST_PARTS = 64  # before those near each other are joined
_MOST = 0.75  # share of the picture's pixels from which on "auto" takes all of it
_RASTER = 128  # places a side at which parts are told apart


class Window(NamedTuple):
    """A rectangle of a picture, in pixels; `right` and `bottom` are the first ones outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self.right - self.left, self.bottom - self.top

    @property
    def area(self) -> int:
        return self.size[0] * self.size[1]

    def of(self, pixels):
        """The part of a (H, W, ...) array or tensor, not a copy."""
        return pixels[self.top : self.bottom, self.left : self.right]

    def meets(self, other: Window) -> bool:
        across = max(self.left, other.left) < min(self.right, other.right)
        return across and max(self.top, other.top) < min(self.bottom, other.bottom)

    def join(self, other: Window) -> Window:
        """The smallest one that holds both."""
        return Window(*map(min, self[:2], other[:2]), *map(max, self[2:], other[2:]))


@dataclass(frozen=True)
class View:
    """A window of a picture, with what is edited in it.

    Attributes:
      picture: the number of the picture.
      cells: (N,) bool raster, to be edited.
      pixels: (height, width) bool, the masked pixels of the window; None for an edit without a mask.
    """

    picture: int
    window: Window
    cells: Tensor
    pixels: Tensor | None


def views_of(
    picture: int,
    size: tuple[int, int],
    region: Tensor | None,
    found: Tensor | None,
    *,
    how: EditOptions,
    grid: int,
    model_size: int,
) -> list[View]:
    """What the model sees of one picture.

    Args:
      size: (width, height) of the picture.
      region: (H, W) bool, the masked pixels; None for no mask.
      found: (N,) bool, cells of the whole picture that stand in the place of a mask.
      how: with crop, padding and mask rule.
      grid: cells per side.
      model_size: side in pixels of what the model sees.
    Raises:
      EmptyMaskError: the mask marks nothing.
    """
    whole = Window(0, 0, *size)
    windows, pixels, rule = [whole], region, how.mask_rule
    if how.crop != "none" and found is not None:
        pixels, rule = cells_to_pixels(found, grid, *size[::-1]), "exact"
    if how.crop != "none" and pixels is not None and pixels.any():
        windows = crop_windows(pixels, model_size, grid, how.crop_padding)
        if how.crop == "auto" and sum(window.area for window in windows) >= _MOST * whole.area:
            windows = [whole]
    if windows == [whole]:
        if found is None:
            found = cells_of(region, grid, rule)
        return [View(picture, whole, found, region)]
    views = []
    for window in windows:
        part = window.of(pixels)
        views.append(View(picture, window, cells_of(part, grid, rule), None if region is None else part))
    return views


def cells_of(region: Tensor | None, grid: int, rule: str) -> Tensor:
    """(N,) bool: the cells of a (H, W) bool region by a mask rule; all where there is no mask.

    Raises:
      EmptyMaskError: it marks nothing.
    """
    return full_mask(grid) if region is None else pool_edit_mask(region[None].float(), grid, rule)


def seeds_of_views(views: Sequence[View], seeds: Sequence[int]) -> list[int]:
    """A seed for each sample of each view, in turn: the picture's own in its first view, others from it.

    Args:
      views: in the order of their pictures.
      seeds: as many for each picture in turn.
    """
    num_samples = len(seeds) // (views[-1].picture + 1)
    drawn = []
    for number, view in enumerate(views):
        part = sum(other.picture == view.picture for other in views[:number])
        own = seeds[view.picture * num_samples : (view.picture + 1) * num_samples]
        drawn += own if part == 0 else [derived_seed(seed % 2**64, part) for seed in own]
    return drawn


def samples_of(views: Sequence[View], num_rows: int) -> Iterator[tuple[int, list[View], list[int]]]:
    """Each result in turn: the number of its picture, that one's views, and the rows that belong to them.

    Args:
      views: V, in the order of their pictures.
      num_rows: V · S, the samples of a view side by side.
    """
    num_samples = num_rows // len(views)
    for picture, members in groupby(enumerate(views), lambda member: member[1].picture):
        numbers, own = zip(*members, strict=True)
        for sample in range(num_samples):
            yield picture, list(own), [number * num_samples + sample for number in numbers]


def results_of(
    images: Sequence[Image.Image],
    views: Sequence[View],
    shown: Sequence[Image.Image],
    decoded: Sequence[Image.Image],
    drawn: Drawn,
    *,
    composite: str,
    grid: int,
    timings: dict[str, float],
) -> list[EditResult]:
    """The images with what was drawn for their views: S samples of each, side by side.

    Args:
      images: RGB, RGBA or I;16.
      views: V, in the order of their images.
      shown: V pictures, what the model saw.
      decoded, drawn: V · S pictures, and (V · S, N) codes, the samples of a view side by side.
    """
    results, num_samples = [], len(decoded) // len(views)
    for picture, own, rows in samples_of(views, len(decoded)):
        edited, region = paste(images[picture], own, [decoded[row] for row in rows], composite, grid)
        crops = tuple(
            Crop(
                tuple(view.window),
                shown[row // num_samples],
                drawn.codes[row],
                view.cells,
                drawn.num_passes[row],
            )
            for view, row in zip(own, rows, strict=True)
        )
        results.append(EditResult(edited, region, timings, crops))
    return results


def crop_windows(region: Tensor, model_size: int, grid: int, padding: int | None = None) -> list[Window]:
    """Squares around the parts of a region, in reading order, that share no pixel.

    Parts whose squares would meet get one together. A square's side is a multiple of `grid`, so that cells
    have whole pixels, unless the picture has no room for that. Where a part is longer than the picture's
    short side there is no such square, and the window ends with the picture.

    Args:
      region: (H, W) bool, not empty.
      model_size: least side, where the picture is as large.
      grid: cells per side.
      padding: see `EditOptions.crop_padding`.
    """
    size = (region.shape[1], region.shape[0])

    def fit(box: Window) -> Window:
        return _square(box, size, model_size, grid, padding)

    parts = _parts(region)
    boxes = _join(parts, fit)
    if len(boxes) > MOST_CROPS:
        boxes = [_box(region)]
    return sorted(map(fit, boxes), key=lambda window: (window.top, window.left))


def paste(
    source: Image.Image, views: Sequence[View], decoded: Sequence[Image.Image], composite: str, grid: int
) -> tuple[Image.Image, Tensor]:
    """The picture with its views' changed pixels from what was decoded for each.

    Args:
      source: RGB, RGBA or I;16.
      decoded: RGB, one a view, of any size.
      composite: see `changed_region`.
    Returns:
      The picture, in its own mode, and (H, W) bool: the pixels that were free to change.
    """
    pixels = np.array(source)
    changed = torch.zeros(source.height, source.width, dtype=torch.bool)
    for view, image in zip(views, decoded, strict=True):
        chosen = changed_region(composite, view.cells, view.pixels, grid, view.window.size)
        put(view.window.of(pixels), image, chosen)
        view.window.of(changed)[:] = chosen
    if source.mode == "RGBA" and not pixels[..., 3][changed.numpy()].any():
        log.warning("all that this edit changes is transparent in its picture, and stays so")
    return like(pixels, source), changed


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


def _square(box: Window, size: tuple[int, int], model_size: int, grid: int, padding: int | None) -> Window:
    longest, short = max(box.size), min(size)
    side = max(longest + 2 * (longest // 2 if padding is None else padding), model_size)
    side = -(-side // grid) * grid
    if longest <= short < side:  # as large a square as there is
        whole_cells = short // grid * grid
        side = whole_cells if whole_cells >= longest else short
    (left, right), (top, bottom) = (
        _around(box[axis], box[axis + 2], min(side, size[axis]), size[axis]) for axis in (0, 1)
    )
    return Window(left, top, right, bottom)


def _around(first: int, end: int, side: int, length: int) -> tuple[int, int]:
    """`side` pixels of `length` that have `first` to `end` in the middle, or as near to it as can be."""
    start = min(max((first + end - side) // 2, 0), length - side)
    return start, start + side


def _parts(region: Tensor) -> list[Window]:
    """Boxes of the pieces that a gap of a place or more divides; one box for very many."""
    from scipy import ndimage  # half a second, for photographs alone

    step = -(-max(region.shape) // _RASTER)
    places = F.max_pool2d(region[None].float(), step, ceil_mode=True)[0] > 0
    pieces = ndimage.find_objects(ndimage.label(places.numpy(), np.ones((3, 3)))[0])
    if len(pieces) > _MOST_PARTS:
        return [_box(region)]
    boxes = []
    for rows, columns in pieces:
        left, top = columns.start * step, rows.start * step
        box = _box(region[top : rows.stop * step, left : columns.stop * step])
        boxes.append(Window(left + box.left, top + box.top, left + box.right, top + box.bottom))
    return boxes


def _box(region: Tensor) -> Window:
    """The smallest rectangle that holds all of a region, which is not empty."""
    rows, columns = (region.any(axis).nonzero().flatten() for axis in (1, 0))
    return Window(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _join(boxes: Sequence[Window], fit: Callable[[Window], Window]) -> list[Window]:
    """Joins boxes until no two of their windows meet."""
    waiting, apart = list(boxes), []
    while waiting:
        box = waiting.pop()
        near = next((other for other in apart if fit(other).meets(fit(box))), None)
        if near is None:
            apart.append(box)
        else:
            apart.remove(near)
            waiting.append(box.join(near))
    return apart
