"""A dataset held in memory as codes and text features: what a training sees is read and encoded once, before.

The random choices made per sample after that (mask dilation and jitter, order, caption drop) are as without
the cache, because they hang on the sample's seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset.batches import EditSample, T2ISample, Text
from dataset.records.masks import marked
from dataset.t2i import T2IDataset
from dataset.t2i_editing import EditingDataset
from language.text_features import TextFeatures
from runtime.distributed import ONE_RANK, Distributed
from runtime.errors import UserError
from runtime.logging import progress

EncodeImages = Callable[[Tensor], Tensor]
EncodeTexts = Callable[[list[Text]], list[TextFeatures]]
Item = TypeVar("Item")
BATCH = 64


class CachedT2I(Dataset[T2ISample]):
    """`T2IDataset` with codes (N,) int32 in the place of `image`."""

    def __init__(
        self,
        dataset: T2IDataset,
        encode_images: EncodeImages,
        encode_texts: EncodeTexts,
        ranks: Distributed = ONE_RANK,
        first: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
          encode_images: (B, 3, S, S) images → (B, N) codes.
          encode_texts: strings or features → features.
          ranks: share the encoding; each holds everything.
          first: the samples to encode beforehand, None = all; others are when they are asked for.
        """

        def encode(indices: Sequence[int]) -> list[T2ISample]:
            samples = [dataset[index, 0] for index in indices]
            codes = encode_images(torch.stack([s.image for s in samples]))
            texts = encode_texts([s.text for s in samples])
            return [
                replace(s, image=c.to(torch.int32), text=t)
                for s, c, t in zip(samples, codes, texts, strict=True)
            ]

        self._samples = _Encoded(encode, len(dataset), ranks, first)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, key: tuple[int, int]) -> T2ISample:
        index, seed = key
        sample = self._samples[index]
        return replace(sample, seed=seed)


class CachedEdits(Dataset[EditSample]):
    """`EditingDataset` with codes (N,) int32 in the place of `source` and `edited`."""

    def __init__(
        self,
        dataset: EditingDataset,
        encode_images: EncodeImages,
        encode_texts: EncodeTexts,
        ranks: Distributed = ONE_RANK,
        first: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
          dataset: with `center_crop` and without `random_flip`: random crops cannot be encoded beforehand.
          encode_images: (B, 3, S, S) images → (B, N) codes.
          encode_texts: strings or features → features.
          ranks: share the encoding; each holds everything.
          first: as of `CachedT2I`.
        """
        if dataset.random_flip or not dataset.center_crop:
            raise UserError(
                "--cache-codes encodes each image once: it needs --center-crop and no --random-flip"
            )
        self._dataset = dataset

        def encode(indices: Sequence[int]) -> list[tuple[EditSample, np.ndarray | None]]:
            samples, regions = zip(*map(dataset.load_unpooled, indices), strict=True)
            source = encode_images(torch.stack([s.source for s in samples])).to(torch.int32)
            edited = encode_images(torch.stack([s.edited for s in samples])).to(torch.int32)
            texts = encode_texts([s.text for s in samples])
            samples = [
                replace(s, source=before, edited=after, text=text)
                for s, before, after, text in zip(samples, source, edited, texts, strict=True)
            ]
            bits = [None if r is None else np.packbits(marked(r).numpy()) for r in regions]
            return list(zip(samples, bits, strict=True))

        self._samples = _Encoded(encode, len(dataset), ranks, first)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, key: tuple[int, int]) -> EditSample:
        index, seed = key
        sample, bits = self._samples[index]
        region = None
        if bits is not None:
            side = self._dataset.image_size
            region = torch.from_numpy(np.unpackbits(bits, count=side * side)).view(1, side, side).float()
        sample = replace(sample, seed=seed)
        return sample if sample.problem is not None else self._dataset.pool(sample, region)


class _Encoded(Generic[Item]):
    """What `encode` makes of each index: of the first ones at once, of another when it is asked for."""

    def __init__(
        self,
        encode: Callable[[Sequence[int]], list[Item]],
        count: int,
        ranks: Distributed,
        first: Sequence[int] | None,
    ) -> None:
        self._encode, self._count = encode, count
        first = range(count) if first is None else first
        self._items = dict(zip(first, _encode_all(encode, first, ranks), strict=True))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Item:
        if index not in self._items:
            (self._items[index],) = self._encode([index])
        return self._items[index]


def _encode_all(
    encode: Callable[[Sequence[int]], list[Item]], indices: Sequence[int], ranks: Distributed
) -> list[Item]:
    """`encode` of the indices in order, `BATCH` of them at a time on every rank, behind a progress bar."""
    items: list[Item] = []
    with progress(total=len(indices), desc="encoding", unit="sample", disable=not ranks.is_main) as bar:
        while len(items) < len(indices):
            start = len(items) + ranks.rank * BATCH
            mine = indices[start : start + BATCH]
            parts = ranks.gather_objects(encode(mine) if mine else [])
            items += chain.from_iterable(parts)
            bar.update(sum(map(len, parts)))
    return items
