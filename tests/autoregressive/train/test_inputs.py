"""What the loader's processes prepare and the training thread finishes."""

from __future__ import annotations

import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_training import stage_flags
from tiny_gpt import V, tiny

from autoregressive.sequence.builders import editing_layout
from autoregressive.sequence.orders import raster_edit_order
from autoregressive.sequence.packing import pack_rows
from autoregressive.train.components import resting
from autoregressive.train.config import EditingConfig, T2IConfig
from autoregressive.train.inputs import CAPTION_DROP, Encoders, NumberedBatches, chosen, editing_inputs
from autoregressive.train.packing.config import ExtractCodesConfig
from autoregressive.train.stages import train_t2i
from dataset.batches import EditBatch
from language.t5 import T5Encoder
from language.text_features import TextFeatures, stack_text_features
from runtime.config import parse
from runtime.distributed import distributed
from runtime.errors import UserError

CPU = torch.device("cpu")
N, B = 16, 6
FLAGS = ["--data-path", "x", "--vq-ckpt", "x", "--gpt-model", "R-GPT-tiny", "--mask_in_context"]


@pytest.fixture(scope="module")
def encoder(t5_dir):
    return T5Encoder(t5_dir, max_tokens=8)


def batch_of(texts) -> EditBatch:
    torch.manual_seed(0)
    codes = torch.randint(V, (2, B, N), dtype=torch.int32)
    valid = torch.arange(B) != 2
    mask = (torch.rand(B, N) < 0.4) & valid[:, None]
    mask[valid, 0] = True
    problems = [None if good else "torn" for good in valid.tolist()]
    return EditBatch(texts, list(range(B)), [f"line {i}" for i in range(B)], problems, valid, *codes, mask)


def features_of(encoder, texts) -> list[TextFeatures]:
    return [t if isinstance(t, TextFeatures) else encoder.encode([t])[0] for t in texts]


@pytest.mark.parametrize(("flag", "moves"), [("--cache-codes", True), ("--center-crop", False)])
def test_encoders_leave_the_device_where_steps_do_not_need_them(flag, moves):
    """They are there while a preview is drawn."""
    places = ["device"]
    encoders = Encoders(SimpleNamespace(to=places.append), SimpleNamespace(to=places.append), 16, 8)
    draw = resting(encoders, parse(EditingConfig, [*FLAGS, flag]), "device", lambda step: (step, places[-2:]))
    away = "cpu" if moves else "device"
    assert places[-1] == away
    assert draw(3) == (3, ["device"] * (1 + moves)) and places[-1] == away


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("kind", ["features", "words", "both"])
def test_prepared_batches_are_what_codes_and_features_give(kind, pack, encoder):
    """The slow twin: encode every text by itself, lay out the codes, drop captions, pack."""
    words = ["a red circle", "make the small blue square green", "remove it", "a", "x y z", "two stars"]
    ready = features_of(encoder, words)
    texts = {"features": ready, "words": words, "both": [*ready[:2], *words[2:5], ready[5]]}[kind]
    batch = batch_of(texts)
    flags = [*FLAGS, "--class-dropout-p", "0.5", "--pack-rows", "on" if pack else "off", "--supervise-marks"]
    config = parse(EditingConfig, flags)
    model = tiny(mask_in_context=True, caption_dim=16)
    inputs = editing_inputs(model, Encoders(None, encoder, 16, 8), config, CPU)
    preparation = pickle.loads(pickle.dumps(inputs.preparation()))  # as in a loader's process
    prepared = pickle.loads(pickle.dumps(preparation(batch, 3)))
    layout, text = inputs.finish(prepared)

    features, text_valid = stack_text_features(ready, limit=8)
    expected = editing_layout(
        batch.source.long(),
        batch.edited.long(),
        batch.edit_mask,
        text_valid,
        V,
        orders=raster_edit_order(batch.edit_mask),
        sample_valid=batch.valid,
        supervise_marks=True,
    )
    dropped = chosen(CAPTION_DROP, batch.seeds, 0.5)
    assert dropped.any() and not dropped.all()
    features[dropped] = model.unconditional_text(features)[dropped]
    if pack:
        expected, kept = pack_rows(expected, text_valid.shape[1])
        features = features.flatten(0, 1)[kept][None]
    supervised = expected.supervised
    assert torch.equal(layout.targets.flatten()[supervised], expected.targets.flatten()[supervised])
    for name, value in (vars(expected) | {"targets": layout.targets}).items():
        same = getattr(layout, name)
        assert torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same, name
    torch.testing.assert_close(text, features, atol=1e-5, rtol=0)
    assert prepared.origins == batch.origins and prepared.problems == batch.problems and prepared.step == 3


def test_pixels_that_are_not_finite_spoil_their_sample_alone(encoder):
    batch = batch_of(["a red circle"] * B)
    images = torch.zeros(B, 3, 8, 8)
    images[1, 0, 0, 0] = torch.inf
    batch = replace(batch, source=images, edited=torch.zeros_like(images))
    inputs = editing_inputs(
        tiny(mask_in_context=True, caption_dim=16),
        Encoders(None, encoder, 16, 8),
        parse(EditingConfig, FLAGS),
        CPU,
    )
    for texts in (batch.texts, features_of(encoder, batch.texts)):
        text = inputs.preparation()(replace(batch, texts=texts), 0).text
        text = text if isinstance(text, torch.Tensor) else inputs._encode(text)
        assert text.isnan().flatten(1).all(1).tolist() == [i == 1 for i in range(B)]
        assert text[[0, *range(2, B)]].isfinite().all()


def test_words_without_an_encoder_are_refused_where_they_are_prepared():
    inputs = editing_inputs(
        tiny(mask_in_context=True), Encoders(None, None, 8, 8), parse(EditingConfig, FLAGS), CPU
    )
    with pytest.raises(UserError, match="no text encoder is loaded for 'a red circle': give --t5-path"):
        inputs.preparation()(batch_of(["a red circle"] * B), 0)


def test_a_step_sees_the_same_coin_in_all_its_micro_batches():
    numbered = NumberedBatches([[(i, 0)] for i in range(6)], first_step=4, a_step=2)
    assert [(step, keys[0][0]) for step, keys in numbered] == [(4 + i // 2, i) for i in range(6)]
    config = parse(EditingConfig, [*FLAGS, "--full-mask-share", "0.5"])
    ready = [TextFeatures(torch.zeros(1, 8), torch.ones(1, dtype=torch.bool))] * B
    inputs = editing_inputs(tiny(mask_in_context=True), Encoders(None, None, 8, 8), config, CPU)
    full = [inputs.preparation()(batch_of(ready), step).layout.num_predictions == N for step in range(40)]
    coins = [np.random.default_rng([3, config.global_seed, step]).random() < 0.5 for step in range(40)]
    assert full == coins and 8 < sum(full) < 32


def test_features_that_are_not_read_are_told_of(shapes, train_flags, tmp_path, capsys):
    """Published commands give the flags; the default --dataset has no use for them."""
    flags = [*stage_flags("t2i", shapes, train_flags), "--short-t5-feat-path", "short", "--dry-run"]
    with distributed("cpu") as ranks:
        train_t2i(parse(T2IConfig, [*flags, "--results-dir", str(tmp_path)]), ranks)
    assert "--t5-feat-path and --short-t5-feat-path are not read" in capsys.readouterr().err
    words = "--data-path a.jsonl --vq-ckpt v.pt --packed-path p --t5-feat-path f".split()
    with pytest.raises(UserError, match="add --dataset t2i_laion_coco"):
        parse(ExtractCodesConfig, words)
