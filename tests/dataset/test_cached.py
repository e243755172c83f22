"""Datasets held in memory as codes."""

from __future__ import annotations

import pytest
import torch
from conftest import run_threads

from autoregressive.train.config import step_limit
from dataset.batches import T2ISample
from dataset.cached import CachedT2I
from dataset.data_order import ResumableBatchSampler, first_samples
from language.text_features import TextFeatures
from runtime.distributed import ONE_RANK

FEATURES = TextFeatures(torch.zeros(1, 4), torch.ones(1, dtype=torch.bool))


class Numbers:
    """21 images, each of its number."""

    def __len__(self) -> int:
        return 21

    def __getitem__(self, key):
        return T2ISample(torch.full((3, 2, 2), float(key[0])), str(key[0]), key[1], origin=f"line {key[0]}")


def cache_numbers(ranks=ONE_RANK, first=None):
    """The cached numbers, and how many were encoded at a time, a list that grows."""
    encoded = []

    def encode_images(images):
        encoded.append(len(images))
        return images[:, 0].flatten(1)

    return CachedT2I(Numbers(), encode_images, lambda texts: [FEATURES] * len(texts), ranks, first), encoded


def test_ranks_share_the_encoding_and_hold_everything(monkeypatch):
    monkeypatch.setattr("dataset.cached.BATCH", 4)

    def cache(ranks):
        cached, encoded = cache_numbers(ranks)
        assert len(cached) == 21
        for number in range(21):
            sample = cached[number, 7]
            assert sample.image.tolist() == [number] * 4 and sample.image.dtype == torch.int32
            assert sample.origin == f"line {number}" and sample.seed == 7
        return encoded

    assert run_threads(1, cache) == [[4, 4, 4, 4, 4, 1]]
    assert run_threads(2, cache) == [[4, 4, 4], [4, 4, 1]]


def test_what_a_short_training_sees_is_encoded_beforehand_and_the_rest_when_it_is_asked_for():
    sampler = ResumableBatchSampler(21, 4, 0, 1, seed=5)
    seen = [index for batch, _ in zip(sampler, range(3), strict=False) for index, _ in batch]
    first = first_samples(21, 5, 3 * 4)
    assert list(first) == sorted(seen) and len(first) == 12
    cached, encoded = cache_numbers(first=first)
    assert len(cached) == 21 and encoded == [12]
    assert [int(cached[index, 0].image[0]) for index in seen] == seen and encoded == [12]
    other = min(set(range(21)) - set(seen))
    assert cached[other, 9].image.tolist() == [other] * 4 and cached[other, 0].origin == f"line {other}"
    assert encoded == [12, 1]  # once


@pytest.mark.parametrize(("given", "limit"), [(None, None), (-1, None), (7, 7)])
def test_never_is_no_number_of_steps(given, limit):
    assert step_limit(given) == limit


@pytest.mark.parametrize("count", [None, 21, 22])
def test_a_training_of_an_epoch_sees_everything(count):
    assert first_samples(21, 5, count) == range(21)
