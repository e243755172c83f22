"""The plain slow twin of the training loader: pixels, padded text and a dense attention mask for each sample.

What it ships for one edit is what the published stage 2 ships. Letters as in `baseline.py`; S side of
the images, P = 120 + 3N slots of the longest sequence.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

TEXT_SLOTS = 120


class SlowSample(NamedTuple):
    """One edit as the slow loader ships it; a batch stacks every field.

    `image` and `source` are (3, S, S) float32 in [-1, 1], `text` (1, 120, C) float32, `orders` (N,) cells
    with the edited ones first, `orders_kept_first` (N,) the other way round, `weight` (N,) 1 for the edited
    cells of `orders`, `mask` (1, P, P) bool, `valid` 1.
    """

    image: Tensor
    source: Tensor
    text: Tensor
    orders: Tensor
    orders_kept_first: Tensor
    weight: Tensor
    mask: Tensor
    valid: Tensor


class SlowEdits(Dataset[SlowSample]):
    """Reads an UltraEdit jsonl whose paths are relative to it."""

    def __init__(self, jsonl: Path, image_size: int, grid: int, num_samples: int) -> None:
        """
        Args:
          num_samples: length; the lines are read over and over.
        """
        self.folder, self.lines = jsonl.parent, [json.loads(line) for line in jsonl.read_text().splitlines()]
        self.grid, self.num_samples = grid, num_samples
        self.transform = transforms.Compose(
            [transforms.Resize(image_size), transforms.RandomCrop(image_size)]
        )

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> SlowSample:
        line = self.lines[index % len(self.lines)]
        source, edited = (
            np.array(Image.open(self.folder / line[name]).convert("RGB"))
            for name in ("file_name", "edited_image")
        )
        region = np.array(Image.open(self.folder / line["mask_image"]))[:, :, None].repeat(3, axis=2)
        three = torch.from_numpy(np.stack([source, edited, region])).permute(0, 3, 1, 2)
        source, edited, region = self.transform(three) / 255.0
        large = F.interpolate((region[None, :1] > 0.5).float(), size=(512, 512), mode="bicubic")
        cells = (F.max_pool2d(large, kernel_size=512 // self.grid) > 0).int().view(-1)
        raster = torch.arange(self.grid**2)
        orders = torch.cat([raster[cells == 1], raster[cells == 0]])
        text, text_mask = pad_text(torch.from_numpy(np.load(self.folder / line["target_caption_t5_path"])))
        return SlowSample(
            image=(edited - 0.5) / 0.5,
            source=(source - 0.5) / 0.5,
            text=text,
            orders=orders,
            orders_kept_first=torch.cat([raster[cells == 0], raster[cells == 1]]),
            weight=cells[orders],
            mask=dense_mask(text_mask, TEXT_SLOTS + 3 * self.grid**2),
            valid=torch.tensor(1),
        )


def pad_text(features: Tensor) -> tuple[Tensor, Tensor]:
    """(1, n, C) features → (1, 120, C) padded at the left, and (120,) 1 where they are."""
    padded = torch.zeros(1, TEXT_SLOTS, features.shape[2])
    length = min(TEXT_SLOTS, features.shape[1])
    padded[:, TEXT_SLOTS - length :] = features[:, :length]
    mask = torch.zeros(TEXT_SLOTS)
    mask[TEXT_SLOTS - length :] = 1
    return padded, mask


def dense_mask(text_mask: Tensor, length: int) -> Tensor:
    """(1, length, length) bool: causal, padded text hidden, every slot sees itself."""
    mask = torch.tril(torch.ones(length, length))
    slots = len(text_mask)
    mask[:, :slots] = mask[:, :slots] * text_mask.unsqueeze(0)
    eye = torch.eye(length, length)
    mask = mask * (1 - eye) + eye
    return mask.unsqueeze(0).to(torch.bool)
