"""The tokenizer against recorded outputs, the published parameter names, and its own checkpoints."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from safetensors.torch import load_file

from runtime.errors import UserError
from tokenizer.tokenizer_image.codebook import CodeCounts, reseed_unused, spherical_kmeans
from tokenizer.tokenizer_image.vq_model import VectorQuantizer, build_vq_model, codebook_usage, load_vq_model
from tokenizer.tokenizer_image.vq_registry import VQ_MODELS

REFERENCE = ROOT / "tests" / "reference"
TINY = {"codebook_size": 16, "width": 8, "z_channels": 8, "norm_groups": 2, "num_res_blocks": 1}


def filled(name: str):
    spec = importlib.util.spec_from_file_location("fill", REFERENCE / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    model = build_vq_model(name, codebook_size=256)
    fill.fill_(model.state_dict())
    with torch.no_grad():
        model.quantize.embedding.weight.copy_(F.normalize(model.quantize.embedding.weight, dim=-1))
    return model


def tiny_model(name: str = "VQ-8-small"):
    torch.manual_seed(0)
    return build_vq_model(name, **TINY)


def checkpoint_of(model, name: str = "VQ-8-small") -> dict:
    return {
        "model": model.state_dict(),
        "args": {"vq_model": name, "vq_config": dataclasses.asdict(model.config)},
    }


@pytest.mark.parametrize(("name", "file"), [("VQ-16", "vq16_small"), ("VQ-8", "vq8_small")])
def test_reproduces_the_recorded_outputs(name, file):
    recorded = load_file(REFERENCE / f"{file}.safetensors")
    model = filled(name)
    with torch.no_grad():
        pre_quant = model.encode(recorded["image"])
        output = model(recorded["image"])
    ids = model.encode_ids(recorded["image"])

    torch.testing.assert_close(pre_quant, recorded["pre_quant"], atol=1e-4, rtol=0)
    assert (ids != recorded["indices"].view_as(ids)).sum() <= 1
    torch.testing.assert_close(
        model.quantize(recorded["pre_quant"])[0], recorded["quantized"], atol=1e-5, rtol=0
    )
    decoded = model.decode_ids(recorded["indices"].view_as(ids))
    torch.testing.assert_close(decoded, recorded["reconstruction"], atol=1e-4, rtol=0)
    assert output.codebook_loss.item() == pytest.approx(recorded["vq_loss"].item(), rel=1e-4)
    assert 0.25 * output.commitment_loss.item() == pytest.approx(recorded["commit_loss"].item(), rel=1e-4)


@pytest.mark.parametrize("name", ["VQ-16", "VQ-8"])
def test_parameter_names_and_shapes_are_the_published_ones(name):
    manifest = json.loads((REFERENCE / "manifests.json").read_text())[name]
    with torch.device("meta"):
        model = build_vq_model(name)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == manifest


def test_small_model_has_nine_cells_a_side_at_72_pixels():
    model, images = build_vq_model("VQ-8-small"), torch.zeros(2, 3, 72, 72)
    assert model.encode_ids(images).shape == (2, 81)
    assert model(images).reconstruction.shape == (2, 3, 72, 72)


@pytest.mark.parametrize("overrides", [{"stem_stride": 2, "channel_mult": (1, 2, 4)}, {"attention": True}])
def test_configurations_keep_their_downsampling(overrides):
    model = build_vq_model("VQ-8-small", **{**TINY, **overrides})
    ids = model.encode_ids(torch.rand(1, 3, 16, 16))
    assert model.config.downsampling == 8 and ids.shape == (1, 4)
    assert model.decode_ids(ids).shape == (1, 3, 16, 16)


def test_codes_are_raster_ordered_and_decode_as_in_training():
    model = tiny_model().eval()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        output = model(images)
        vectors = model.quantize(model.encode(images))[0]
    ids = model.encode_ids(images)
    assert torch.equal(ids, output.ids)
    torch.testing.assert_close(vectors[:, :, 0, 1], model.quantize.codebook()[ids[:, 1]])
    torch.testing.assert_close(model.decode_ids(ids), output.reconstruction)


def test_nearest_code_is_the_one_of_smallest_distance():
    quantize = tiny_model().quantize
    unit = F.normalize(torch.randn(5, 8), dim=-1)
    assert torch.equal(quantize.nearest(unit), torch.cdist(unit, quantize.codebook()).argmin(-1))


def test_codes_under_bf16_autocast_are_those_of_float32():
    torch.manual_seed(0)
    model = build_vq_model("VQ-8-small")
    latents = torch.randn(2, 8, 16, 16)
    expected = model.quantize(latents)[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.quantize(latents)[1], expected)


def test_straight_through_gradient_reaches_the_encoder():
    model = tiny_model()
    model(torch.rand(1, 3, 16, 16)).reconstruction.sum().backward()
    assert model.encoder.conv_in.weight.grad.abs().sum() > 0
    assert model.quantize.embedding.weight.grad is None


def test_usage_is_the_share_of_codes_that_occur():
    assert codebook_usage(torch.tensor([[0, 1], [1, 7]]), 8) == 3 / 8


def test_checkpoint_rebuilds_a_configuration_that_has_no_name(tmp_path):
    model = tiny_model()
    torch.save(checkpoint_of(model), tmp_path / "vq.pt")
    loaded = load_vq_model(tmp_path / "vq.pt")
    assert loaded.config == model.config and not loaded.training
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded.encode_ids(images), model.encode_ids(images))


def test_published_checkpoint_has_a_namespace_and_averaged_weights_win(tmp_path):
    averaged, plain = tiny_model(), tiny_model()
    with torch.no_grad():
        averaged.decoder.conv_out.bias.fill_(3)
    args = argparse.Namespace(vq_model="VQ-tiny")
    torch.save({"ema": averaged.state_dict(), "model": plain.state_dict(), "args": args}, tmp_path / "vq.pt")
    VQ_MODELS["VQ-tiny"] = averaged.config
    try:
        assert load_vq_model(tmp_path / "vq.pt").decoder.conv_out.bias[0] == 3
    finally:
        del VQ_MODELS["VQ-tiny"]


def test_the_name_in_a_file_goes_before_the_one_given(tmp_path, monkeypatch):
    model = tiny_model()
    monkeypatch.setitem(VQ_MODELS, "VQ-tiny", model.config)
    for args in (argparse.Namespace(vq_model="VQ-tiny"), {"vq_model": "VQ-tiny"}):
        torch.save({"model": model.state_dict(), "args": args}, tmp_path / "vq.pt")
        assert load_vq_model(tmp_path / "vq.pt", "VQ-16").config == model.config
    torch.save({"model": model.state_dict(), "args": {}}, tmp_path / "vq.pt")
    assert load_vq_model(tmp_path / "vq.pt", "VQ-tiny").config == model.config


def test_bad_checkpoints_are_refused_with_the_reason(tmp_path):
    path = tmp_path / "vq.pt"
    torch.save({"model": {"weight": torch.zeros(2)}}, path)
    with pytest.raises(UserError, match="no tokenizer checkpoint"):
        load_vq_model(path)
    torch.save({"model": tiny_model().state_dict()}, path)
    with pytest.raises(UserError, match="which tokenizer"):
        load_vq_model(path)
    with pytest.raises(UserError, match="conv_in"):
        load_vq_model(path, name="VQ-8-small")
    with pytest.raises(UserError, match="unknown tokenizer 'VQ-9'"):
        build_vq_model("VQ-9")
    with pytest.raises(UserError, match="multiples of 8"):
        tiny_model().encode_ids(torch.zeros(1, 3, 20, 16))
    with pytest.raises(UserError, match="square"):
        tiny_model().decode_ids(torch.zeros(1, 5, dtype=torch.int64))


@pytest.mark.parametrize("name", ["VQ-16", None])
def test_a_codebook_takes_no_more_memory_than_its_file_has(tmp_path, name, monkeypatch):
    """One number that is shown as many: of a published file and of one with its settings."""
    path, rows = tmp_path / "vq.pt", 10**9
    state = tiny_model().state_dict() | {"quantize.embedding.weight": torch.zeros(1).expand(rows, 8)}
    args = {} if name else {"vq_config": vq_settings(codebook_size=rows, codebook_embed_dim=8)}
    torch.save({"model": state, "args": args}, path)
    monkeypatch.setattr(VectorQuantizer, "__init__", lambda *_: pytest.fail("a model of that size is made"))
    with pytest.raises(UserError, match=r"quantize.embedding.weight is misshapen: \(1000000000, 8\) of only"):
        load_vq_model(path, name)


def vq_settings(**changes) -> dict:
    return {**dataclasses.asdict(tiny_model().config), **changes}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("VQ-16", "its vq_config is a str, not settings by name"),
        (None, "its vq_config is a NoneType"),
        (vq_settings(colour=1), "unknown settings colour in its vq_config"),
        (vq_settings(width="8"), "width '8', which is no whole number"),
        (vq_settings(channel_mult=3), "channel_mult 3, which is no list of whole numbers"),
        (vq_settings(channel_mult=[1.5]), "which is no list of whole numbers"),
        (vq_settings(channel_mult=[]), "no tokenizer can be made of its settings"),
        (vq_settings(norm_groups=0), "no tokenizer can be made of its settings"),
        (vq_settings(norm_groups=3), "no tokenizer can be made of its settings"),
        (vq_settings(local_encoder=True), "local_encoder needs local_norm"),
        (vq_settings(width=10**6), "vq.pt does not fit this model"),
        (vq_settings(num_res_blocks=10**9), "no tokenizer can be made of its settings"),
        (vq_settings(channel_mult=[1] * 10**4), "no tokenizer can be made of its settings"),
    ],
)
def test_settings_that_are_none_are_named(tmp_path, settings, message):
    content = {"model": tiny_model().state_dict(), "args": {"vq_config": settings}}
    torch.save(content, tmp_path / "vq.pt")
    with pytest.raises(UserError, match=message):
        load_vq_model(tmp_path / "vq.pt")


def test_kmeans_finds_the_directions_of_separate_groups():
    directions = torch.eye(4)
    unit = F.normalize(directions.repeat(50, 1) + 0.01 * torch.randn(200, 4), dim=-1)
    centres = spherical_kmeans(unit, 4, generator=torch.Generator().manual_seed(1), iterations=5)
    assert (centres @ directions.T).amax(dim=0).min() > 0.99


def test_codes_that_never_occur_are_reseeded_from_latents():
    quantize = tiny_model().quantize
    before = quantize.codebook().detach().clone()
    counts = CodeCounts(16)
    counts.add(torch.tensor([0, 3, 3]))
    latents = F.normalize(torch.randn(64, 8), dim=-1)
    generator = torch.Generator().manual_seed(0)
    assert reseed_unused(quantize.embedding.weight.data, counts.counts, latents, generator) == 14
    after = quantize.codebook().detach()
    torch.testing.assert_close(after[[0, 3]], before[[0, 3]])
    assert (after[1:3] @ latents.T).amax(-1).min() > 0.99
    counts.reset()
    assert counts.counts.sum() == 0


def test_local_normalisation_keeps_a_change_where_it_is():
    """With a GroupNorm one bright pixel moves the latents of all cells; locally only those it can reach."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, 8, 160) * 2 - 1
    changed = image.clone()
    changed[..., :4] = 1
    far = {}
    for local in (False, True):
        model = build_vq_model("VQ-8-small", **{**TINY, "local_norm": local}).eval()
        with torch.no_grad():
            difference = (model.encode(image) - model.encode(changed)).abs().amax((0, 1, 2))
        assert difference[0] > 1e-3
        far[local] = difference[-1]
    assert far[True] == 0 < far[False]


def test_a_local_encoder_sees_one_cell():
    torch.manual_seed(0)
    config = {**TINY, "local_norm": True, "local_encoder": True, "stem_stride": 4, "channel_mult": (1, 2)}
    model = build_vq_model("VQ-8-small", **config).eval()
    image = torch.rand(1, 3, 24, 24) * 2 - 1
    changed = image.clone()
    changed[..., 8:16, 8:16] = 1
    with torch.no_grad():
        same = (model.encode(image) == model.encode(changed)).all(1)[0]
    assert same.flatten().tolist() == [cell != 4 for cell in range(9)]
    with pytest.raises(UserError, match="local_norm"):
        build_vq_model("VQ-8-small", **{**config, "local_norm": False})
