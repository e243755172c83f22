"""Pictures of images with their cells, for people to look at."""

from __future__ import annotations

from PIL import Image, ImageDraw
from torch import Tensor

OUTLINE = (230, 0, 120)


def enlarge(image: Image.Image, least_side: int) -> Image.Image:
    """The image as RGB, each pixel repeated until no side is shorter than `least_side`."""
    scale = max(1, -(-least_side // min(image.size)))
    return image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


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
