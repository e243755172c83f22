"""What an edit gives: pictures while it is drawn, and the result. Letters: B batch, N cells."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autoregressive.decoding.engine import OnPass
from dataset.records.images import as_seen
from runtime.errors import require_known

OUTPUT_TYPES = ("pil", "np", "pt")
_SHOWN_SIDE = 1024  # pixels of a picture in a notebook, at most


@dataclass(frozen=True)
class Drawing:
    """Results as far as they are drawn; its (B, N) raster tensors change with the next step.

    Attributes:
      step, num_steps: codes drawn so far, of the result that has most, and those of the largest region.
      codes: the source's where nothing is drawn, 0 where there is no source.
      drawn, to_draw: bool cells.
      show: makes `pictures`.
      boxes: V parts of the pictures that the rows are of, see `Crop.box`; the samples of each stand side by
        side. None of drawings from text.
    """

    step: int
    num_steps: int
    codes: Tensor
    drawn: Tensor
    to_draw: Tensor
    show: Callable[[Drawing], list[Image.Image]] | None = field(default=None, repr=False)
    boxes: tuple[tuple[int, int, int, int], ...] = ()

    def pictures(self) -> list[Image.Image]:
        """The results as they are now, in the thread that is told; those of a copy in any.

        Drawn cells in their images, at their size; of drawings from text, with the other cells grey. It runs
        the decoder.
        """
        return self.show(self)

    def copy(self) -> Drawing:
        """As it is now; it does not change with the next step."""
        return replace(self, codes=self.codes.clone(), drawn=self.drawn.clone())


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
      num_passes: forwards of the transformer that these took, at most one a cell.
    """

    box: tuple[int, int, int, int]
    seen: Image.Image
    codes: Tensor = field(repr=False)
    edit_mask: Tensor = field(repr=False)
    num_passes: int


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

    def _repr_png_(self) -> bytes:
        """The picture in a notebook, no larger than a page."""
        shown, stream = as_seen(self.image), io.BytesIO()
        shown.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
        shown.save(stream, "PNG")
        return stream.getvalue()

    @property
    def num_tokens(self) -> int:
        """Cells that were generated, of all crops."""
        return sum(int(crop.edit_mask.sum()) for crop in self.crops)

    @property
    def num_passes(self) -> int:
        """Forwards of the transformer that they took, at most as many."""
        return sum(crop.num_passes for crop in self.crops)


@dataclass(frozen=True)
class PipelineOutput:
    """What calling a pipeline gives.

    Attributes:
      images: PIL images; for "np" a (B, H, W, 3) float32 array in [0, 1], for "pt" a (B, 3, H, W) tensor;
        where sizes differ a list of (H, W, 3) or (3, H, W).
      results: the edits with all that is known of them; empty for drawn images.
      seeds: of the images; given as `seeds` they make them again.
    """

    images: list[Image.Image] | np.ndarray | Tensor | list[np.ndarray] | list[Tensor]
    results: tuple[EditResult, ...] = ()
    seeds: tuple[int, ...] = ()


def as_output(images: list[Image.Image], output_type: str) -> object:
    """Pictures as `PipelineOutput.images` has them; arrays and tensors are of RGB, transparency over white.

    Raises:
      UserError: an unknown type.
    """
    require_known("output_type", output_type, OUTPUT_TYPES)
    if output_type == "pil":
        return images
    arrays = [np.asarray(as_seen(image), dtype=np.float32) / 255 for image in images]
    alike = len({array.shape for array in arrays}) == 1
    if output_type == "np":
        return np.stack(arrays) if alike else arrays
    tensors = [torch.from_numpy(array).movedim(-1, 0).contiguous() for array in arrays]
    return torch.stack(tensors) if alike else tensors


def numbered(callback: Callable[..., Any], pipeline: object) -> Progress:
    """Calls f(pipeline, step, step, {"codes": (B, N)}) after each pass, as diffusers' pipelines do."""
    passes = itertools.count()

    def note(drawing: Drawing) -> None:
        number = next(passes)
        callback(pipeline, number, number, {"codes": drawing.codes})

    return note


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
        codes.scatter_(1, orders, torch.where(settled, so_far.cpu().clamp(min=0), codes.gather(1, orders)))
        drawn_cells.scatter_(1, orders, settled)
        progress(Drawing(max(num_settled), len(numbers), codes, drawn_cells, to_draw))

    return on_pass
