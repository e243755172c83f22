"""A dataset held in memory as codes and text features: images are read and encoded once, before training.

The random choices made per sample after that (mask dilation and jitter, order, caption drop) are as without
the cache, because they hang on the sample's seed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset.samples import EditSample, T2ISample, Text
from dataset.t2i import T2IDataset
from dataset.t2i_editing import EditingDataset
from language.text_features import TextFeatures
from runtime.errors import UserError
from runtime.logging import progress

EncodeImages = Callable[[Tensor], Tensor]
EncodeTexts = Callable[[list[Text]], list[TextFeatures]]
BATCH = 64


class CachedT2I(Dataset[T2ISample]):
    """`T2IDataset` with codes (N,) int32 in the place of `image`."""

    def __init__(self, dataset: T2IDataset, encode_images: EncodeImages, encode_texts: EncodeTexts) -> None:
        """
        Args:
          encode_images: (B, 3, S, S) images → (B, N) codes.
          encode_texts: strings or features → features.
        """
        self._samples: list[T2ISample] = []
        for samples in _batches(lambda index: dataset[index, 0], len(dataset)):
            codes = encode_images(torch.stack([s.image for s in samples]))
            texts = encode_texts([s.text for s in samples])
            self._samples += [
                replace(s, image=c.to(torch.int32), text=t)
                for s, c, t in zip(samples, codes, texts, strict=True)
            ]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, key: tuple[int, int]) -> T2ISample:
        index, seed = key
        sample = self._samples[index]
        return replace(sample, seed=seed)


class CachedEdits(Dataset[EditSample]):
    """`EditingDataset` with codes (N,) int32 in the place of `source` and `edited`."""

    def __init__(
        self, dataset: EditingDataset, encode_images: EncodeImages, encode_texts: EncodeTexts
    ) -> None:
        """
        Args:
          dataset: with `center_crop` and without `random_flip`: random crops cannot be encoded beforehand.
          encode_images: (B, 3, S, S) images → (B, N) codes.
          encode_texts: strings or features → features.
        """
        if dataset.random_flip or not dataset.center_crop:
            raise UserError(
                "--cache-codes encodes each image once: it needs --center-crop and no --random-flip"
            )
        self._dataset = dataset
        self._samples: list[EditSample] = []
        self._regions: list[np.ndarray | None] = []
        for loaded in _batches(dataset.load_unpooled, len(dataset)):
            samples = [sample for sample, _ in loaded]
            source = encode_images(torch.stack([s.source for s in samples]))
            edited = encode_images(torch.stack([s.edited for s in samples]))
            texts = encode_texts([s.text for s in samples])
            for (sample, region), codes, text in zip(
                loaded, zip(source, edited, strict=True), texts, strict=True
            ):
                before, after = (c.to(torch.int32) for c in codes)
                self._samples.append(replace(sample, source=before, edited=after, text=text))
                self._regions.append(None if region is None else np.packbits(region.numpy() > 0.5))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, key: tuple[int, int]) -> EditSample:
        index, seed = key
        sample, bits = self._samples[index], self._regions[index]
        region = None
        if bits is not None:
            side = self._dataset.image_size
            region = torch.from_numpy(np.unpackbits(bits, count=side * side)).view(1, side, side).float()
        sample = replace(sample, seed=seed)
        return sample if sample.problem is not None else self._dataset.pool(sample, region)


def _batches(load: Callable, count: int):
    """Loads all samples, `BATCH` at a time, behind a progress bar."""
    with progress(total=count, desc="encoding", unit="sample") as bar:
        for start in range(0, count, BATCH):
            loaded = [load(index) for index in range(start, min(start + BATCH, count))]
            yield loaded
            bar.update(len(loaded))
