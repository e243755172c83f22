"""What an edit gives: pictures while it is drawn, and the result. Letters: B batch, N cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from autoregressive.decoding.engine import OnCode


@dataclass(frozen=True)
class Drawing:
    """Results as far as they are drawn; its (B, N) raster tensors change with the next step.

    Attributes:
      step, num_steps: codes of each result drawn so far, and those of the largest region.
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
class Crop:
    """One part of a picture that the model saw, squashed to its square.

    Attributes:
      box: (left, top, right, bottom) in pixels of the upright picture, as PIL's `crop` takes it.
      seen: RGB, of the model's size.
      codes: (N,) int64 raster codes after the edit.
      edit_mask: (N,) bool raster, the cells that were generated.
    """

    box: tuple[int, int, int, int]
    seen: Image.Image
    codes: Tensor = field(repr=False)
    edit_mask: Tensor = field(repr=False)


@dataclass(frozen=True)
class EditResult:
    """One edit.

    Attributes:
      image: at the source's size; outside `region` every pixel is the source's (but for composite "none").
        RGB, unless `EditOptions.crop` asks for more. Its `info` has the source's colour profile and
        resolution, for `runtime.pictures.save_picture`.
      region: (H, W) bool, the pixels that were free to change.
      timings: seconds of the batch's "encode", "generate" and "decode", and "locate" if a mask was "auto".
      crops: what the model saw: one part, unless a cropped region has several far from each other.
    """

    image: Image.Image
    region: Tensor = field(repr=False)
    timings: dict[str, float]
    crops: tuple[Crop, ...]

    @property
    def codes(self) -> Tensor:
        """(N,) int64 raster codes after the edit, of the first crop."""
        return self.crops[0].codes

    @property
    def edit_mask(self) -> Tensor:
        """(N,) bool raster, the cells that were generated, of the first crop."""
        return self.crops[0].edit_mask

    @property
    def num_tokens(self) -> int:
        """Cells that were generated, of all crops."""
        return sum(int(crop.edit_mask.sum()) for crop in self.crops)


def tell_progress(
    progress: Progress | None, codes: Tensor, orders: Tensor, counts: Tensor | None = None
) -> OnCode | None:
    """What the engine is to call, so that `progress` sees the (B, N) codes fill up.

    Args:
      codes: what stands there before anything is drawn.
      orders: (B, K) cells in the order in which they are drawn.
      counts: (B,) how many of its K cells each row draws; all if None.
    """
    if progress is None:
        return None
    codes = codes.clone()
    numbers = torch.arange(orders.shape[1])
    counts = torch.full_like(orders[:, 0], len(numbers)) if counts is None else counts
    to_draw = torch.zeros_like(codes, dtype=torch.bool).scatter(1, orders, numbers < counts[:, None])
    drawn_cells = torch.zeros_like(to_draw)

    def on_code(number: int, drawn: Tensor) -> None:
        cells, busy = orders[:, number], counts > number
        codes[busy, cells[busy]] = drawn.cpu()[busy]
        drawn_cells[busy, cells[busy]] = True
        progress(Drawing(number + 1, len(numbers), codes, drawn_cells, to_draw))

    return on_code
