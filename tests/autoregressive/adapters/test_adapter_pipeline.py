"""Pipelines with adapters: in use, merged, moved, and of each request in a queue."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from adapter_files import write_trained_adapter
from PIL import Image

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.edit_queue import EditQueue
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sample.flags import SampleEditing
from autoregressive.sample.loading import load_pipeline
from runtime.config import parse
from runtime.errors import UserError

HOW = Sampling(cfg_scale=1.0, temperature=1.5)
KINDS = {"red": (2, False), "blue": (3, True)}  # rank, DoRA with tables


@pytest.fixture(scope="module")
def adapter_files(gpt_ckpts, tmp_path_factory):
    """Two adapters of the tiny editor."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: write_trained_adapter(folder / f"{name}.pt", gpt_ckpts["edit"], seed=seed, rank=rank, dora=dora)
        for seed, (name, (rank, dora)) in enumerate(KINDS.items())
    }


@pytest.fixture
def pipeline(gpt_ckpts, vq_ckpt, t5_dir, adapter_files):
    pipeline = EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir)
    for name, path in adapter_files.items():
        pipeline.load_adapter(path, name)
    return pipeline


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8))


def codes(pipeline, seed: int = 0, **options):
    return pipeline.edit(picture(seed), "red", seeds=seed, sampling=HOW, num_samples=4, **options)[0].codes


def scores(pipeline):
    source = pipeline.encode([picture()]).cpu()
    return pipeline.locate(source, *pipeline.encode_texts(["red"]))


def test_an_adapter_is_used_until_another_is_set(pipeline, gpt_ckpts, vq_ckpt, t5_dir):
    plain = scores(pipeline)
    found = {}
    for name in KINDS:
        pipeline.set_adapter(name)
        assert pipeline.active_adapter == name and f"adapter {name}" in repr(pipeline)
        found[name] = scores(pipeline)
    assert not torch.allclose(found["red"], found["blue"]) and not torch.allclose(found["red"], plain)
    pipeline.set_adapter("red")
    assert torch.equal(scores(pipeline), found["red"])
    pipeline.set_adapter(None)
    assert torch.equal(scores(pipeline), plain) and "adapter" not in repr(pipeline)
    alone = EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir)
    assert torch.equal(scores(alone), plain) and torch.equal(codes(alone), codes(pipeline))


@pytest.mark.parametrize("dtype, most", [(torch.float64, 1e-6), (torch.float32, 2e-5)])
@pytest.mark.parametrize("name", KINDS)
def test_merged_and_unmerged_give_the_same(name, dtype, most, pipeline):
    """To 1e-6 but for float32's own rounding, which the scores, differences of logarithms, show."""
    pipeline.to(dtype=dtype)
    plain = scores(pipeline)
    pipeline.set_adapter(name)
    before, drawn = scores(pipeline), codes(pipeline)
    pipeline.merge_adapter()
    torch.testing.assert_close(scores(pipeline), before, atol=most, rtol=0)
    assert torch.equal(codes(pipeline), drawn)
    pipeline.unmerge_adapter()
    assert torch.equal(scores(pipeline), before)
    pipeline.set_adapter(None)
    assert torch.equal(scores(pipeline), plain)


def test_a_merged_pipeline_is_saved_and_one_in_use_is_not(pipeline, tmp_path):
    pipeline.set_adapter("blue")
    with pytest.raises(UserError, match="call merge_adapter to save it with the model"):
        pipeline.save_pretrained(tmp_path)
    pipeline.merge_adapter()
    pipeline.save_pretrained(tmp_path)
    again = EditingPipeline.from_pretrained(tmp_path)
    assert torch.equal(scores(again), scores(pipeline))


@pytest.mark.parametrize("merged", [False, True])
def test_adapters_move_with_the_model(merged, pipeline):
    pipeline.set_adapter("blue")
    if merged:
        pipeline.merge_adapter()
    before = scores(pipeline)
    pipeline.to(dtype=torch.float64)
    assert pipeline.transformer.dtype == torch.float64
    torch.testing.assert_close(scores(pipeline).float(), before, atol=1e-4, rtol=0)
    pipeline.to(dtype=torch.float32)
    assert pipeline.active_adapter == "blue"
    torch.testing.assert_close(scores(pipeline), before, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(scores(copy.deepcopy(pipeline)), before, atol=1e-6, rtol=1e-6)


def test_adapters_share_the_weights_below(pipeline):
    plain, adapted = pipeline.transformer, pipeline.with_adapter("red").transformer
    layers = [model.layers[0].attention.wqkv for model in (plain, adapted)]
    assert layers[1].base is layers[0] and adapted.tok_embeddings is plain.tok_embeddings
    assert pipeline.active_adapter is None and pipeline.transformer is plain


def test_what_is_refused(pipeline, adapter_files, gpt_ckpts, vq_ckpt, t5_dir, tmp_path):
    with pytest.raises(UserError, match="adapter 'green' is not loaded; there are red, blue"):
        pipeline.set_adapter("green")
    with pytest.raises(UserError, match="no adapter is in use"):
        pipeline.merge_adapter()
    with pytest.raises(UserError, match="does not exist"):
        pipeline.load_adapter(tmp_path / "nowhere")
    with pytest.raises(UserError, match="give a word"):
        pipeline.load_adapter(adapter_files["red"], "")
    other = EditingPipeline.load(vq_ckpt, gpt_ckpts["t2i"], t5_dir)
    with torch.no_grad():
        for weight in other.to(dtype=torch.float64).transformer.parameters():
            weight *= 1.1
    with pytest.raises(UserError, match="adapter of other weights than this model's"):
        other.load_adapter(adapter_files["red"])
    small = EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir, dtype=torch.int8)
    with pytest.raises(UserError, match="load the model without int8"):
        small.load_adapter(adapter_files["red"])
    pipeline.set_adapter("red")
    pipeline.delete_adapter("red")
    assert pipeline.adapters == ["blue"] and pipeline.active_adapter is None


def test_mixed_requests_of_a_queue_get_what_each_gets_alone(pipeline):
    names = [None, *KINDS]
    guided = dataclasses.replace(HOW, cfg_scale=2.0)
    asked = [(name, seed, how) for name in names for seed in range(3) for how in (HOW, guided)]
    random.Random(0).shuffle(asked)

    def call(editing, seed, how, **more):
        return editing(picture(seed), "red", "auto", seeds=seed, num_samples=2, sampling=how, **more)

    alone = [call(pipeline.with_adapter(name).edit, seed, how) for name, seed, how in asked]
    with EditQueue(pipeline, max_lanes=8) as edits:
        with ThreadPoolExecutor(4) as threads:
            futures = list(threads.map(lambda ask: call(edits.submit, *ask[1:], adapter=ask[0]), asked))
        together = [future.result() for future in futures]
        with pytest.raises(UserError, match="adapter 'green' is not loaded"):
            edits.submit(picture(), "red", adapter="green")
    for mine, theirs in zip(together, alone, strict=True):
        assert [torch.equal(a.codes, b.codes) for a, b in zip(mine, theirs, strict=True)] == [True, True]
    by_adapter = {
        name: [r[0].codes for (n, s, h), r in zip(asked, alone, strict=True) if n == name and h is HOW]
        for name in names
    }
    assert not torch.equal(torch.cat(by_adapter["red"]), torch.cat(by_adapter["blue"]))
    assert pipeline.with_adapter("red").token_editor.shared is None


def test_a_queue_serves_the_adapter_in_use_where_none_is_asked_for(pipeline):
    pipeline.set_adapter("red")
    wanted = codes(pipeline)
    with EditQueue(pipeline) as edits:
        for adapter in (None, "red"):
            future = edits.submit(picture(), "red", seeds=0, sampling=HOW, num_samples=4, adapter=adapter)
            assert torch.equal(future.result()[0].codes, wanted)


def test_a_request_keeps_the_adapter_that_was_in_use_as_it_came(pipeline):
    pipeline.set_adapter("red")
    pipeline.merge_adapter()
    wanted, began, go_on = codes(pipeline), threading.Event(), threading.Event()
    options = {"seeds": 0, "sampling": HOW, "num_samples": 4}

    def hold(drawing) -> None:
        began.set()
        assert go_on.wait(60)

    with EditQueue(pipeline, max_lanes=1) as edits:
        first = edits.submit(picture(), "red", **options, progress=hold)
        assert began.wait(60)
        second = edits.submit(picture(), "red", **options)  # the queue has one thread: it waits
        pipeline.set_adapter("blue")
        third = edits.submit(picture(), "red", **options)
        go_on.set()
        for future in (first, second):
            assert torch.equal(future.result(60)[0].codes, wanted)
        assert torch.equal(third.result(60)[0].codes, codes(pipeline)) and not torch.equal(
            wanted, codes(pipeline)
        )


def test_sampling_programs_take_an_adapter(pipeline, adapter_files, gpt_ckpts, vq_ckpt, t5_dir):
    pipeline.set_adapter("blue")
    pipeline.merge_adapter()
    files = ["--vq-ckpt", str(vq_ckpt), "--gpt-ckpt", str(gpt_ckpts["edit"]), "--t5-path", str(t5_dir)]
    files += ["--image", "a.png", "--mask", "b.png", "--prompt", "red"]
    configs = [
        parse(SampleEditing, [*files, *(["--adapter", str(path)] if path else [])])
        for path in (None, adapter_files["red"], adapter_files["blue"])
    ]
    assert torch.equal(scores(load_pipeline(configs[2], torch.device("cpu"))), scores(pipeline))
    assert len({json.dumps(config.settings(None), default=str) for config in configs}) == 3
