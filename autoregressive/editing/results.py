"""What an edit gives: pictures while it is drawn, and the result. Letters: B batch, N cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from autoregressive.decoding.engine import OnPass


@dataclass(frozen=True)
class Drawing:
    """Results as far as they are drawn; its (B, N) raster tensors change with the next step.

    Attributes:
      step, num_steps: codes drawn so far, of the result that has most, and those of the largest region.
      codes: the source's where nothing is drawn, 0 where there is no source.
      drawn, to_draw: bool cells.
    """

    step: int
    num_steps: int
    codes: Tensor
    drawn: Tensor
    to_draw: Tensor


Progress = Callable[[Drawing], None]
"""Called after each step."""


@dataclass(frozen=True)
class EditResult:
    """One edit.

    Attributes:
      image: at the source's size; outside `region` every pixel is the source's (but for composite "none").
        Its `info` has the source's colour profile and resolution, for `runtime.pictures.save_picture`.
      codes: (N,) int64 raster codes after the edit.
      edit_mask: (N,) bool raster, the cells that were generated.
      region: (H, W) bool, the pixels that were free to change.
      timings: seconds of the batch's "encode", "generate" and "decode", and "locate" if a mask was "auto".
      num_passes: forwards of the transformer that its cells took, at most one a cell.
    """

    image: Image.Image
    codes: Tensor
    edit_mask: Tensor
    region: Tensor
    timings: dict[str, float]
    num_passes: int


def tell_progress(progress: Progress, codes: Tensor, orders: Tensor, counts: Tensor | None = None) -> OnPass:
    """What the engine is to call, so that `progress` sees the (B, N) codes fill up.

    Args:
      codes: what stands there before anything is drawn.
      orders: (B, K) cells in the order in which they are drawn.
      counts: (B,) how many of its K cells each row draws; all if None.
    """
    codes = codes.clone()
    numbers = torch.arange(orders.shape[1])
    counts = torch.full_like(orders[:, 0], len(numbers)) if counts is None else counts
    to_draw = torch.zeros_like(codes, dtype=torch.bool).scatter(1, orders, numbers < counts[:, None])
    drawn_cells = torch.zeros_like(to_draw)

    def on_pass(so_far: Tensor, num_settled: list[int]) -> None:
        settled = numbers < torch.tensor(num_settled)[:, None]
        codes.scatter_(1, orders, torch.where(settled, so_far.cpu(), codes.gather(1, orders)))
        drawn_cells.scatter_(1, orders, settled)
        progress(Drawing(max(num_settled), len(numbers), codes, drawn_cells, to_draw))

    return on_pass
