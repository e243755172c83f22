"""What the notebooks show pictures with."""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import pyplot as plt
from PIL import Image

from autoregressive.editing.pictures import grey_cells

# Text encoders load in an instant, and pages are kept with their outputs: no progress bars, nor the warning
# that they need a package.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
warnings.filterwarnings("ignore", message="IProgress not found")

_TITLE_WIDTH = 25  # letters that fit over a picture


def show(
    images: Sequence[Image.Image | np.ndarray | torch.Tensor],
    titles: Sequence[str] = (),
    regions: Sequence[np.ndarray | torch.Tensor | None] = (),
    columns: int = 6,
) -> None:
    """Shows pictures in rows of `columns`.

    Args:
      images: RGB images, or (H, W) numbers, which are shown as colours from dark (low) to bright (high).
      titles: one a picture, or none; long ones are wrapped.
      regions: (H, W) bool of the picture's size, one a picture or none; its border is drawn.
    """
    rows = -(-len(images) // columns)
    columns = min(columns, len(images))
    size = (1.6 * columns, 2.0 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, dpi=80, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for i, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        axis.imshow(np.asarray(image), interpolation="nearest")
        if titles:
            axis.set_title(textwrap.fill(titles[i], _TITLE_WIDTH), fontsize=8)
        if regions and regions[i] is not None:
            _outline(axis, np.asarray(regions[i]))
    plt.show()
    plt.close(figure)


def _outline(axis: plt.Axes, region: np.ndarray) -> None:
    """Lines along the pixel edges where `region` begins or ends, the picture's border included."""
    framed = np.pad(region, 1).astype(int)
    style = {"color": "#e60078", "linewidth": 1.5, "clip_on": False}
    for y, x in np.argwhere(np.diff(framed, axis=0)):
        axis.plot([x - 1.5, x - 0.5], [y - 0.5] * 2, **style)
    for y, x in np.argwhere(np.diff(framed, axis=1)):
        axis.plot([x - 0.5] * 2, [y - 1.5, y - 0.5], **style)


def first_cells(image: Image.Image, order: torch.Tensor, count: int) -> Image.Image:
    """The image as far as it is drawn: all but the first `count` cells of `order` (N,) is grey."""
    drawn = torch.zeros(len(order), dtype=torch.bool)
    drawn[order[:count]] = True
    return grey_cells(image, ~drawn, round(len(order) ** 0.5))
