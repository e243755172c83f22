"""In which order cells are drawn. Letters: B batch, N cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autoregressive.sequence.order_kinds import REGION_ORDERS


def raster_edit_order(edit_mask: Tensor) -> Tensor:
    """(B, N) bool → (B, N) cells, the edited ones first, both groups in raster order."""
    return torch.argsort((~edit_mask).to(torch.uint8), dim=1, stable=True)


def random_orders(seeds: list[int], num_cells: int, edit_mask: Tensor | None = None) -> Tensor:
    """(B, N) uniformly random cell orders, one generator a sample so that a batch never matters.

    Args:
      seeds: one a sample.
      edit_mask: (B, N) bool; then the edited cells come first, each group in random order.
    """
    generator = torch.Generator()
    orders = torch.stack([torch.randperm(num_cells, generator=generator.manual_seed(s)) for s in seeds])
    if edit_mask is None:
        return orders
    kept_last = torch.argsort((~edit_mask.gather(1, orders)).to(torch.uint8), dim=1, stable=True)
    return orders.gather(1, kept_last)


def spiral_order(grid: int) -> Tensor:
    """(grid * grid,) cells ring by ring around the centre, from the inside outwards."""
    return order_region(torch.arange(grid**2), grid, "spiral", torch.Generator())


def order_region(cells: Tensor, grid: int, kind: str, generator: torch.Generator) -> Tensor:
    """The cells of a region in an order of a kind.

    Args:
      cells: (n,) raster numbers, rising.
      grid: cells per side of the image.
      kind: one of `ORDER_KINDS`; "spiral" goes ring by ring from the middle of the region outwards,
        "outside_in" the same way back, "columns" down one column after the other, "spread" always to the cell
        farthest from all before it.
      generator: of "random".
    """
    if kind == "random":
        return cells[torch.randperm(len(cells), generator=generator)]
    if kind in ("reverse", "outside_in"):
        return order_region(cells, grid, {"reverse": "raster"}.get(kind, "spiral"), generator).flip(0)
    rows, columns = cells // grid, cells % grid
    if kind == "columns":
        return cells[(columns * grid + rows).argsort()]
    if kind == "raster" or not len(cells):
        return cells
    if kind == "spread":
        return cells[_farthest_first(torch.stack([rows, columns], dim=1))]
    # Of each direction, the middle between the region's two ends.
    rows, columns = (places - (places.min() + places.max()) / 2 for places in (rows, columns))
    ring, turn = torch.maximum(rows.abs(), columns.abs()), torch.atan2(rows, columns)
    by_turn = turn.argsort(stable=True)
    return cells[by_turn[ring[by_turn].argsort(stable=True)]]


def _farthest_first(places: Tensor) -> Tensor:
    """(n, 2) rows and columns → (n,) their numbers: the first, then always the farthest from all before."""
    order, number = [], 0
    distance = torch.full((len(places),), torch.iinfo(torch.long).max)
    for _ in places:
        order.append(number)
        distance = torch.minimum(distance, (places - places[number]).square().sum(1))
        number = int(distance.argmax())  # of equal ones the first; 0 for those that are drawn
    return torch.tensor(order)


def drawing_orders(kind: str, seeds: list[int], edit_mask: Tensor) -> Tensor:
    """(B, N) cells in the order in which samplers draw them: the edited ones first, the kept ones last.

    Args:
      kind: of `ORDER_KINDS`.
      seeds: one a sample, of "random".
      edit_mask: (B, N) bool; all True for whole images.
    """
    if kind == "random":
        return random_orders(seeds, edit_mask.shape[1], edit_mask)
    return edit_orders(seeds, edit_mask, (kind,))


def edit_orders(seeds: list[int], edit_mask: Tensor, kinds: Sequence[str]) -> Tensor:
    """(B, N) cells, the edited ones first in an order of one of `kinds`, the kept ones in raster order.

    Args:
      seeds: one a sample; they choose the kind and shuffle.
      edit_mask: (B, N) bool.
      kinds: of `ORDER_KINDS`.
    """
    orders = raster_edit_order(edit_mask)
    grid = round(edit_mask.shape[1] ** 0.5)
    generator = torch.Generator()
    for order, count, seed in zip(orders, edit_mask.sum(1).tolist(), seeds, strict=True):
        generator.manual_seed(seed)
        order[:count] = order_region(order[:count], grid, _choose(kinds, generator), generator)
    return orders


def _choose(kinds: Sequence[str], generator: torch.Generator) -> str:
    return kinds[int(torch.rand((), generator=generator) * len(kinds))]


def region_orders(seeds: list[int], num_cells: int, kinds: Sequence[str] = REGION_ORDERS) -> Tensor:
    """(B, N) orders of zero-shot edits: cells in raster order, but those of a random rectangle come last.

    Height and width are uniform.

    Args:
      seeds: one a sample.
      kinds: of `ORDER_KINDS`, in one of which the rectangle's cells come.
    """
    grid = round(num_cells**0.5)
    generator = torch.Generator()
    orders = torch.empty(len(seeds), num_cells, dtype=torch.long)
    for order, seed in zip(orders, seeds, strict=True):
        generator.manual_seed(seed)
        size = torch.randint(1, grid + 1, (2,), generator=generator)
        top, left = (torch.rand(2, generator=generator) * (grid + 1 - size)).long().tolist()
        height, width = size.tolist()
        kept = torch.ones(1, grid, grid, dtype=torch.bool)
        kept[:, top : top + height, left : left + width] = False
        order[:] = raster_edit_order(kept.flatten(1))[0]
        region = order[-height * width :]
        region[:] = order_region(region, grid, _choose(kinds, generator), generator)
    return orders
