"""What the demo shows of pictures and edits, and what it reads of strokes; knows nothing of web pages."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autoregressive.editing.pictures import enlarge, grey_cells, outline_cells
from autoregressive.editing.results import Drawing, EditResult
from autoregressive.sequence.order_kinds import ORDER_KINDS
from autoregressive.sequence.orders import drawing_orders
from dataset.records.images import as_seen
from runtime.errors import UserError

SIDES = (512, 1024)
"""Pictures on the page are enlarged to the one and reduced to the other."""
ORDERS = (*ORDER_KINDS, "painted")
BRUSHES = ("#d62728", "#ff7f0e", "#2ca02c", "#1f77b4", "#9467bd")
"""Cells painted in the first colour are drawn first; those that are not painted come last."""


def fit_within(image: Image.Image, side: int) -> Image.Image:
    """The image as viewers show it, reduced where one of its sides is longer."""
    image = as_seen(image)
    scale = side / max(image.size)
    if scale >= 1:
        return image
    return image.resize(tuple(max(1, round(s * scale)) for s in image.size), Image.Resampling.LANCZOS)


def fit_page(image: Image.Image) -> Image.Image:
    """Enlarged or reduced, so that one sees its cells."""
    least, most = SIDES
    longest = max(image.size)
    if longest <= most:
        return enlarge(image, min(least, min(image.size) * (most // longest)))
    return fit_within(image, most)


def painted_mask(layer: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of an image of that (W, H): pixels that a stroke has touched.

    Args:
      layer: RGBA, of any size.
    Raises:
      UserError: nothing is painted.
    """
    if layer is None or not layer[..., 3].any():
        raise UserError("paint the region to edit on the picture, or choose another way to say where")
    picture = Image.fromarray((layer[..., 3] > 0).astype(np.uint8) * 255)
    return np.asarray(picture.resize(size, Image.Resampling.BOX)) > 0


def cell_order(name: str, grid: int, seed: int, layer: np.ndarray | None = None) -> Tensor:
    """(N,) cells in one of `ORDERS`.

    Args:
      seed: of the random order.
      layer: RGBA, strokes in `BRUSHES`, for the painted order.
    """
    if name in ORDER_KINDS:
        return drawing_orders(name, [seed], torch.ones(1, grid**2, dtype=torch.bool))[0]
    palette = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in BRUSHES])
    turn = np.full(grid**2, len(BRUSHES))
    if layer is not None:
        cells = Image.fromarray(layer).resize((grid, grid), Image.Resampling.BOX)
        cells = np.asarray(cells, dtype=float).reshape(-1, 4)
        painted = cells[:, 3] > 25  # a tenth of a cell
        distance = np.abs(cells[:, None, :3] - palette).sum(2)
        turn[painted] = distance.argmin(1)[painted]
    return torch.from_numpy(np.argsort(turn, kind="stable"))


def show_partly(drawing: Drawing) -> Image.Image:
    """The first result as far as it is drawn, where it is edited; what is to come is grey."""
    picture, boxes = as_seen(drawing.pictures()[0]), drawing.boxes
    if not boxes:
        return fit_page(picture)
    first = slice(None, None, len(drawing.codes) // len(boxes))  # of the samples of each part
    for box, cells in zip(boxes, (drawing.to_draw & ~drawing.drawn)[first], strict=True):
        picture.paste(grey_cells(picture.crop(box), cells, math.isqrt(len(cells))), box[:2])
    return fit_page(picture.crop(_around(boxes)))


def show_result(result: EditResult) -> Image.Image:
    """What the model has seen of the image, as the page shows it, with its edited cells outlined."""
    left, top, right, bottom = _around([crop.box for crop in result.crops])
    page = fit_page(as_seen(result.image).crop((left, top, right, bottom)))
    across, down = page.width / (right - left), page.height / (bottom - top)
    for crop in result.crops:
        edges = (crop.box[0] - left, crop.box[1] - top, crop.box[2] - left, crop.box[3] - top)
        box = tuple(round(edge * scale) for edge, scale in zip(edges, (across, down) * 2, strict=True))
        page.paste(outline_cells(page.crop(box), crop.edit_mask, math.isqrt(len(crop.edit_mask))), box[:2])
    return page


def share_to_draw(drawing: Drawing, size: tuple[int, int]) -> float:
    """Share of a picture of that (width, height) that is edited, 0 to 1."""
    first = slice(None, None, len(drawing.codes) // len(drawing.boxes))
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in drawing.boxes]
    shares = drawing.to_draw[first].float().mean(1).tolist()
    return sum(area * share for area, share in zip(areas, shares, strict=True)) / math.prod(size)


def _around(boxes: Sequence[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    """The smallest box that holds them all."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)
