"""Images without captions, for training and evaluating the tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from dataset.records.images import image_to_tensor, load_image
from dataset.records.jsonl import JsonlRecords
from runtime.errors import UserError
from runtime.files import without_mac_metadata

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
_SMALLEST_CROP = 0.8  # of the short side, as LlamaGen's tokenizer training crops
_MAX_TRIES = 10


class ImageSample(NamedTuple):
    """(3, S, S) float32 in [-1, 1], and the problems met before an image could be read."""

    image: Tensor
    problems: list[str]


def list_images(
    data_path: str | Path,
    allow_outside_root: bool = False,
    absolute_paths: bool = False,
    *,
    preferred: str = "*.jsonl",
) -> list[Path]:
    """The images of a folder or of jsonl files.

    Args:
      data_path: a folder of images (searched deeply, sorted), a jsonl file with `image_path` keys (in order),
        or a folder with such files and no images.
      allow_outside_root, absolute_paths: see `PathRules`.
      preferred: of a folder's lists those alone that are called so, if any are.
    """
    data_path = Path(data_path)
    lists = [data_path]
    if data_path.is_dir():
        images = (path for path in data_path.rglob("*") if path.suffix.lower() in SUFFIXES)
        paths = without_mac_metadata(images)
        if paths:
            return paths
        lists = without_mac_metadata(data_path.glob(preferred))
        lists = lists or without_mac_metadata(data_path.glob("*.jsonl"))
        if not lists:
            raise UserError(f"{data_path} holds no images ({', '.join(sorted(SUFFIXES))}) and no *.jsonl")
    elif data_path.suffix != ".jsonl":
        raise UserError(f"{data_path} is neither a folder of images nor a .jsonl file with 'image_path' keys")
    records = JsonlRecords(lists, lambda line: line.path("image_path"), allow_outside_root, absolute_paths)
    return list(records)


class ImageDataset(Dataset[ImageSample]):
    """Map-style and stateless: `dataset[index, seed]` depends on nothing else.

    An image that cannot be read is named in the sample's problems, and the next one takes its place.
    """

    def __init__(self, paths: list[Path], image_size: int, augment: bool) -> None:
        """
        Args:
          paths: image files.
          image_size: side S of the square images.
          augment: random crop of 80 to 100 % of the short side and random mirroring; else centre crop.
        """
        self.paths = paths
        self.image_size = image_size
        self.augment = augment

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> ImageSample:
        index, seed = key
        problems: list[str] = []
        for offset in range(_MAX_TRIES):
            try:
                image = load_image(self.paths[(index + offset) % len(self)])
            except UserError as error:
                problems.append(str(error))
                continue
            rng = np.random.default_rng(seed) if self.augment else None
            return ImageSample(image_to_tensor(square_crop(image, self.image_size, rng)), problems)
        raise UserError(f"{_MAX_TRIES} images in a row cannot be read: {'; '.join(problems)}")


def square_crop(image: Image.Image, size: int, rng: np.random.Generator | None) -> Image.Image:
    """Cuts a square and resizes it to `size`: the middle one, or one drawn by `rng`, which also mirrors."""
    short = min(image.size)
    side = short if rng is None else int(rng.integers(round(_SMALLEST_CROP * short), short + 1))
    room_x, room_y = image.width - side, image.height - side
    left, top = (
        (room_x // 2, room_y // 2)
        if rng is None
        else (int(rng.integers(room_x + 1)), int(rng.integers(room_y + 1)))
    )
    box = (left, top, left + side, top + side)
    reducing_gap = 2.0  # halves with a box filter while that is cheap; bicubic does the rest
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=reducing_gap)
    mirror = rng is not None and rng.random() < 0.5
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else image


def collate_images(samples: list[ImageSample]) -> ImageSample:
    """Stacks samples: (B, 3, S, S) images and all their problems."""
    images = torch.stack([sample.image for sample in samples])
    return ImageSample(images, [problem for sample in samples for problem in sample.problems])
