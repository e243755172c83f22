"""Datasets held in memory as codes."""

from __future__ import annotations

import torch
from conftest import run_threads

from dataset.batches import T2ISample
from dataset.cached import CachedT2I
from language.text_features import TextFeatures

FEATURES = TextFeatures(torch.zeros(1, 4), torch.ones(1, dtype=torch.bool))


class Numbers:
    """21 images, each of its number."""

    def __len__(self) -> int:
        return 21

    def __getitem__(self, key):
        return T2ISample(torch.full((3, 2, 2), float(key[0])), str(key[0]), key[1], origin=f"line {key[0]}")


def test_ranks_share_the_encoding_and_hold_everything(monkeypatch):
    monkeypatch.setattr("dataset.cached.BATCH", 4)

    def cache(ranks):
        encoded = []

        def encode_images(images):
            encoded.append(len(images))
            return images[:, 0].flatten(1)

        cached = CachedT2I(Numbers(), encode_images, lambda texts: [FEATURES] * len(texts), ranks)
        assert len(cached) == 21
        for number in range(21):
            sample = cached[number, 7]
            assert sample.image.tolist() == [number] * 4 and sample.image.dtype == torch.int32
            assert sample.origin == f"line {number}" and sample.seed == 7
        return encoded

    assert run_threads(1, cache) == [[4, 4, 4, 4, 4, 1]]
    assert run_threads(2, cache) == [[4, 4, 4], [4, 4, 1]]
