"""From PIL images to tensors in [-1, 1], as the two published training stages do it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dataset.records.images import MAX_PIXELS, image_to_tensor, marked
from runtime.errors import UserError

_WHITE = 250


def stage1_transform(image: Image.Image, size: int, *, trim: bool = True) -> Tensor:
    """Stage 1 as published: trim white borders, reduce, centre crop.

    Args:
      image: RGB, any size.
      size: side of the result.
      trim: NEP trims, LlamaGen does not.
    Returns:
      (3, size, size) float32 in [-1, 1].
    Raises:
      UserError: the short side is below `size`, or the image is all white.
    """
    if min(image.size) < size:
        raise UserError(f"the image is {image.width}x{image.height}, its short side is below {size}")
    return image_to_tensor(center_crop(trim_white_borders(image) if trim else image, size))


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The middle `size` x `size` pixels after the short side is brought to `size`, as ADM and LlamaGen do."""
    image = _resize_in_halves(image, size)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def trim_white_borders(image: Image.Image) -> Image.Image:
    """Cuts the outer rows and columns in which every pixel has all channels above 250."""
    ink = (np.asarray(image) <= _WHITE).any(axis=2)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if len(rows) == 0:
        raise UserError(f"the {image.width}x{image.height} image is white all over")
    return image.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))


def joint_transform(
    source: Image.Image,
    edited: Image.Image,
    region: Tensor | None,
    size: int,
    rng: np.random.Generator,
    *,
    center_crop: bool = False,
    random_flip: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Stage 2: the same resize, crop and flip for the source, the edited image and the mask.

    Args:
      source: RGB.
      edited: RGB, the source's size.
      region: (H, W) float in [0, 1] of the source's size, 1 = edit; or None.
      size: side of the result; the short side is brought to it, the long side cropped.
      rng: draws the crop and the flip; a crop that would lose the whole mask is drawn again.
      center_crop: crop the middle instead of a random place; or, where the mask is not there, the place
        nearest to the middle that holds some of it.
      random_flip: mirror with probability 0.5.
    Returns:
      source and edited, (3, size, size) float32 in [-1, 1]; region, (1, size, size) of 0 and 1, or None.
    Raises:
      UserError: source, edited and mask differ in size.
    """
    sizes = {"edited image": edited.size, "mask": source.size if region is None else region.shape[::-1]}
    for name, other in sizes.items():
        if tuple(other) != source.size:
            raise UserError(
                f"the {name} is {other[0]}x{other[1]} but the source is {source.width}x{source.height}; "
                "they must have the same size"
            )
    width, height = _size_with_short_side(source, size)
    left, top = (width - size) // 2, (height - size) // 2
    if not center_crop:
        left, top = int(rng.integers(width - size + 1)), int(rng.integers(height - size + 1))
    flip = random_flip and rng.random() < 0.5
    if region is not None:
        marks = _resize_region(region, width, height)
        left, top = _keep_marks(marks, left, top, size, None if center_crop else rng)

    images = []
    for image in (source, edited):
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        images.append(image_to_tensor(image.crop((left, top, left + size, top + size))))
    if region is not None:
        region = marks[:, top : top + size, left : left + size].float()
        images.append(region)
    if flip:
        images = [image.flip(-1) for image in images]
    return images[0], images[1], images[2] if region is not None else None


def _resize_region(region: Tensor, width: int, height: int) -> Tensor:
    """(H, W) in [0, 1] -> (1, height, width) bool; empty only if nothing of `region` is marked."""
    region = region[None]
    if region.shape[1:] == (height, width):
        return marked(region)
    resized = marked(F.interpolate(region[None], (height, width), mode="bilinear", antialias=True)[0])
    if resized.any():
        return resized
    # Averaging fades specks away: keep every pixel that one of them falls into.
    return F.adaptive_max_pool2d(marked(region).float(), (height, width)) > 0


def _keep_marks(
    marks: Tensor, left: int, top: int, size: int, rng: np.random.Generator | None
) -> tuple[int, int]:
    """The crop's place if it holds a marked pixel, else another one that does.

    Args:
      marks: (1, H, W) bool, one of H and W is `size`.
      left: of the crop.
      top: of the crop.
      size: the crop's side.
      rng: draws among all places that hold a mark; None = the place nearest to the given one.
    Returns:
      left and top; as given where no place holds a mark.
    """
    if marks[:, top : top + size, left : left + size].any() or not marks.any():
        return left, top
    # Rows, then columns, as `dilate`: (H - size + 1, W - size + 1), of which one is 1.
    holds = F.max_pool2d(F.max_pool2d(marks.float(), (size, 1), stride=1), (1, size), stride=1)[0] > 0
    places = holds.nonzero()  # rows of (top, left)
    if rng is None:
        choice = int((places - torch.tensor([top, left])).abs().sum(1).argmin())
    else:
        choice = int(rng.integers(len(places)))
    top, left = places[choice].tolist()
    return left, top


def dilate(region: Tensor, pixels: int) -> Tensor:
    """Widens a region by `pixels` on every side (a square brush). (1, H, W) -> (1, H, W)."""
    if pixels == 0:
        return region
    kernel = 2 * pixels + 1
    # Rows, then columns: the same square at a fraction of its cost.
    region = F.max_pool2d(region, (1, kernel), stride=1, padding=(0, pixels))
    return F.max_pool2d(region, (kernel, 1), stride=1, padding=(pixels, 0))


def _resize_in_halves(image: Image.Image, size: int) -> Image.Image:
    """Short side to `size`: halved with a box filter while it is at least twice that, then bicubic."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return image.resize(_size_with_short_side(image, size), Image.Resampling.BICUBIC)


def _size_with_short_side(image: Image.Image, size: int) -> tuple[int, int]:
    width, height = (round(side * size / min(image.size)) for side in image.size)
    if width * height > MAX_PIXELS:  # a strip one pixel wide would become gigabytes
        raise UserError(f"the image is {image.width}x{image.height}, too long and thin to enlarge to {size}")
    return width, height
