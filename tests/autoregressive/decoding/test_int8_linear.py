"""Linear layers with weights of 8 bits."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from autoregressive import EditingPipeline, Sampling
from autoregressive.decoding.int8_linear import (
    INPUT_STEPS,
    WEIGHT_STEPS,
    Int8Linear,
    quantize_linears,
    require_movable,
)
from runtime.errors import UserError

pytestmark = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="this build of torch has no FBGEMM"
)


def layers(num_in: int = 48, num_out: int = 40) -> tuple[nn.Linear, Int8Linear]:
    torch.manual_seed(0)
    plain = nn.Linear(num_in, num_out, bias=False)
    return plain, Int8Linear(plain)


def by_hand(weight: Tensor, x: Tensor) -> Tensor:
    """Rounds weights by output and inputs by row, then multiplies."""
    scale = weight.abs().amax(1, keepdim=True) / WEIGHT_STEPS
    largest = x.abs().amax(-1, keepdim=True) / INPUT_STEPS
    return ((x / largest).round() * largest) @ ((weight / scale).round() * scale).T


@torch.inference_mode()
def test_it_multiplies_the_rounded_numbers():
    plain, layer = layers()
    x = torch.randn(3, 5, 48) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    torch.testing.assert_close(layer(x), by_hand(plain.weight, x), rtol=1e-4, atol=1e-5)
    error = (layer(x) - plain(x)).norm(dim=-1) / plain(x).norm(dim=-1)
    assert 1e-4 < error.max() < 0.03


@torch.inference_mode()
def test_the_largest_numbers_do_not_overflow():
    plain, layer = layers(num_in=64)
    plain.weight.fill_(1)
    x = torch.full((2, 64), 5.0)
    torch.testing.assert_close(Int8Linear(plain)(x), plain(x))
    torch.testing.assert_close(Int8Linear(plain)(-x), plain(-x))


@torch.inference_mode()
def test_a_row_is_the_same_in_any_company():
    _, layer = layers()
    x = torch.randn(33, 48)
    x[4] *= 1000
    together = layer(x)
    assert all(torch.equal(layer(row[None])[0], together[i]) for i, row in enumerate(x))


@torch.inference_mode()
def test_zeros_stay_zeros_and_what_is_not_finite_stays_so_in_its_row_alone():
    _, layer = layers()
    x = torch.randn(4, 48)
    x[0], x[1, 3], x[2, 5] = 0, math.nan, math.inf
    found = layer(x)
    assert (found[0] == 0).all()
    assert not found[1:3].isfinite().any()
    assert found[3].isfinite().all()
    nothing = Int8Linear(nn.Linear(48, 40, bias=False, dtype=torch.float64).requires_grad_(False))
    assert nothing(x[3:].double()).dtype == torch.float64


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@torch.inference_mode()
def test_copies_compute_the_same(copied):
    _, layer = layers()
    x = torch.randn(2, 48)
    assert torch.equal(copied(layer)(x), layer(x))


def test_it_is_not_saved_as_if_it_were_the_model():
    with pytest.raises(UserError, match="load the model without int8"):
        layers()[1].state_dict()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_an_edit_with_8_bits_changes_the_region_only_and_is_the_same_in_a_batch(
    guidance, gpt_ckpts, vq_ckpt, t5_dir
):
    pipeline = EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir, dtype=torch.int8)
    linears = [m for m in pipeline.transformer.modules() if isinstance(m, nn.Linear) and m.bias is None]
    assert linears == []
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    image, mask = Image.fromarray(pixels), np.zeros((24, 24), bool)
    mask[:9, 4:12] = True
    sampling = Sampling(cfg_scale=guidance)
    alone = pipeline.edit(image, "a red star", mask, seeds=1, sampling=sampling)[0]
    batch = pipeline.edit([image] * 2, ["a red star"] * 2, [mask] * 2, seeds=[1, 2], sampling=sampling)
    assert torch.equal(alone.codes, batch[0].codes)
    assert (np.asarray(alone.image)[~alone.region.numpy()] == pixels[~alone.region.numpy()]).all()


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    with pytest.raises(UserError, match="pip install torchao"):
        quantize_linears(nn.Linear(4, 4, bias=False), torch.device("meta"))


def test_weights_of_8_bits_neither_move_nor_change_their_type(gpt_ckpts, vq_ckpt, t5_dir):
    """The packed ones stayed where they were, without a word."""
    pipeline = EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir, dtype=torch.int8)
    with pytest.raises(UserError, match="no way back to torch.float32"):
        pipeline.to(dtype=torch.float32)
    with pytest.raises(UserError, match="device='cuda'"):
        require_movable(pipeline.transformer, "cuda", None)
    assert pipeline.to("cpu") is pipeline
