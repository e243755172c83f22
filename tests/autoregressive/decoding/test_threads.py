"""One pipeline for several threads, and inside its own callbacks: nobody gets another's codes."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.session import EditSession
from autoregressive.models.gpt import evaluating

GUIDED = Sampling(cfg_scale=2.0)


@pytest.fixture(scope="module")
def pipeline(gpt_ckpts, vq_ckpt, t5_dir):
    return EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir)


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))


def _edit(pipeline, image, seed: int, **options) -> torch.Tensor:
    mask = np.zeros((24, 24), bool)
    mask[: 6 + 4 * seed, :12] = True  # every seed another number of cells
    words = "make the circle blue " * (seed + 1)
    return pipeline.edit(image, words, mask, seeds=seed, sampling=GUIDED, **options)[0].codes


def test_threads_get_what_each_gets_alone(pipeline, image):
    alone = [_edit(pipeline, image, seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            together = pool.map(lambda seed: _edit(pipeline, image, seed), range(4))
            assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


def test_a_callback_that_edits_disturbs_no_one(pipeline, image):
    alone = [_edit(pipeline, image, seed) for seed in (2, 1)]
    inner = []
    outer = _edit(pipeline, image, 2, progress=lambda _: inner.append(_edit(pipeline, image, 1)))
    assert torch.equal(outer, alone[0])
    assert inner and all(torch.equal(codes, alone[1]) for codes in inner)


def test_sessions_in_threads_keep_their_own_turns(pipeline, image):
    def turns(seed: int) -> list[torch.Tensor]:
        session = EditSession(pipeline, image)
        mask = np.zeros((24, 24), bool)
        mask[4 * seed : 4 * seed + 8] = True
        for turn in range(2):
            session.edit("remove the square", mask, seed=seed + turn, sampling=GUIDED)
        return [turn.result.codes for turn in session.history]

    alone = [turns(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(turns, range(3)))
    assert all(
        torch.equal(a, b) for x, y in zip(together, alone, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_a_copied_pipeline_edits_alike(pipeline, image):
    copied = copy.deepcopy(pipeline)
    assert torch.equal(_edit(copied, image, 1), _edit(pipeline, image, 1))
    assert copied.engine.caches is not pipeline.engine.caches
    assert copied.engine.model is copied.transformer is not pipeline.transformer


def test_a_model_that_trains_evaluates_until_the_last_thread_is_done(pipeline):
    model = copy.deepcopy(pipeline.transformer).train()
    seen, inside, first_done = [], threading.Event(), threading.Event()

    def second() -> None:
        with evaluating(model):
            inside.set()
            assert first_done.wait(60)
            seen.append(any(module.training for module in model.modules()))

    with ThreadPoolExecutor(1) as pool:
        with evaluating(model):
            later = pool.submit(second)
            assert inside.wait(60)
        first_done.set()
        later.result(60)
    assert seen == [False] and model.training
    with evaluating(model), evaluating(model):
        assert not model.training
    assert all(module.training for module in model.modules())
