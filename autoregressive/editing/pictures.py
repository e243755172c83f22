"""Pictures of images with their cells, for people to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from PIL import Image, ImageDraw
from torch import Tensor

from autoregressive.editing.crop import View, paste, samples_of
from autoregressive.editing.results import Drawing, Progress
from dataset.edit_masks import cells_to_pixels
from dataset.records.images import MAX_PIXELS

OUTLINE = (230, 0, 120)
GREY = (120, 120, 120)


def enlarge(image: Image.Image, least_side: int) -> Image.Image:
    """The image as RGB, each pixel repeated until no side is shorter than `least_side`.

    Less often where the picture would grow above `MAX_PIXELS`.
    """
    scale = -(-least_side // min(image.size))
    scale = max(1, min(scale, math.isqrt(MAX_PIXELS // (image.width * image.height))))
    return image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def grey_cells(image: Image.Image, cells: Tensor, grid: int) -> Image.Image:
    """The image with some cells grey, as if they were not drawn yet.

    Args:
      cells: (N,) bool raster.
      grid: cells per side.
    """
    region = Image.fromarray(cells_to_pixels(cells, grid, image.height, image.width).numpy())
    return Image.composite(Image.new("RGB", image.size, GREY), image, region)


def outline_cells(image: Image.Image, cells: Tensor, grid: int) -> Image.Image:
    """A copy of the image with a line around the cells.

    Args:
      cells: (N,) bool raster.
      grid: cells per side.
    """
    picture = image.copy()
    draw = ImageDraw.Draw(picture)
    columns = [round(i * picture.width / grid) for i in range(grid + 1)]
    rows = [round(i * picture.height / grid) for i in range(grid + 1)]
    chosen = set(cells.nonzero().flatten().tolist())
    for cell in chosen:
        row, column = divmod(cell, grid)
        left, top = columns[column], rows[row]
        right, bottom = columns[column + 1] - 1, rows[row + 1] - 1
        sides = {
            (left, top, right, top): row > 0 and cell - grid in chosen,
            (left, bottom, right, bottom): cell + grid in chosen,
            (left, top, left, bottom): column > 0 and cell - 1 in chosen,
            (right, top, right, bottom): column + 1 < grid and cell + 1 in chosen,
        }
        for side, inner in sides.items():
            if not inner:  # only the outline of the region
                draw.line(side, fill=OUTLINE, width=2)
    return picture


Decode = Callable[[Tensor], list[Image.Image]]


def showing_edits(
    progress: Progress, images: Sequence[Image.Image], views: Sequence[View], decode: Decode, grid: int
) -> Progress:
    """`progress`, told of drawings that can be seen: `Drawing.pictures`.

    Args:
      images, views: as in `results_of`.
      decode: codes to pictures of the model's size.
      grid: cells per side.
    """

    def pictures(drawing: Drawing) -> list[Image.Image]:
        decoded, so_far = decode(drawing.codes), []
        for picture, own, rows in samples_of(views, len(decoded)):
            seen = [replace(view, cells=drawing.drawn[row]) for view, row in zip(own, rows, strict=True)]
            so_far.append(paste(images[picture], seen, [decoded[row] for row in rows], "cells", grid)[0])
        return so_far

    boxes = tuple(tuple(view.window) for view in views)
    return lambda drawing: progress(replace(drawing, show=pictures, boxes=boxes))


def showing_drawings(progress: Progress, decode: Decode, grid: int) -> Progress:
    """As `showing_edits`, of pictures that are drawn from text."""

    def pictures(drawing: Drawing) -> list[Image.Image]:
        decoded = decode(drawing.codes)
        return [grey_cells(one, ~drawn, grid) for one, drawn in zip(decoded, drawing.drawn, strict=True)]

    return lambda drawing: progress(replace(drawing, show=pictures))
