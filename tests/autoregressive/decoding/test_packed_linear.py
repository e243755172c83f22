"""Packed linear layers against the plain ones they replace."""

import copy
import pickle

import pytest
import torch
from torch import nn

from autoregressive.decoding.packed_linear import PackedLinear, can_pack, pack_linears, unpack_linears
from autoregressive.models.gpt import build_gpt

pytestmark = pytest.mark.skipif(not can_pack(torch.zeros(1)), reason="this build of torch has no oneDNN")


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 7), (0, 5), (1, 300)])
def test_a_packed_layer_computes_what_the_plain_one_does(dtype, atol, shape):
    if not can_pack(torch.zeros(1, dtype=dtype)):
        pytest.skip("no bfloat16 in this processor")
    linear = nn.Linear(96, 80, bias=False).to(dtype)
    x = torch.randn(*shape, 96).to(dtype)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x), atol=atol, rtol=1e-2)


def test_packing_is_taken_back_bit_for_bit_and_files_see_plain_weights():
    model = build_gpt("R-GPT-tiny", vocab_size=64, block_size=9, caption_dim=16, mask_in_context=True)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    pack_linears(model)
    assert sum(isinstance(m, PackedLinear) for m in model.modules()) == 2 * 5 + 3
    packed = model.state_dict()
    assert packed.keys() == before.keys()
    unpack_linears(model)
    for state in (packed, model.state_dict()):
        assert all(torch.equal(state[name], weight) for name, weight in before.items())
    model.to(torch.bfloat16)


def _model(packed: bool = True):
    torch.manual_seed(0)
    model = build_gpt("R-GPT-tiny", vocab_size=64, block_size=9, caption_dim=16, mask_in_context=True).eval()
    nn.init.normal_(model.output.weight)
    if packed:
        pack_linears(model)
    return model


def _load(model):
    other = _model()
    nn.init.zeros_(other.output.weight)  # whatever it was before
    other.load_state_dict(model.state_dict())
    return other


def _through_bf16(model):
    return model.to(torch.bfloat16).to(torch.float32)


@pytest.mark.parametrize(
    "change",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        _load,
        lambda model: model.to("cpu"),
        lambda model: model.float(),
        lambda model: model.requires_grad_(False),
        _through_bf16,
    ],
    ids=["deepcopy", "pickle", "load_state_dict", "to", "float", "requires_grad_", "to bfloat16 and back"],
)
def test_a_packed_model_is_handled_like_a_plain_one(change):
    plain, changed = _model(packed=False), change(_model())
    if change is _through_bf16:
        plain = _through_bf16(plain)
    for (name, weight), (same_name, own) in zip(
        plain.state_dict().items(), changed.state_dict().items(), strict=True
    ):
        assert name == same_name and torch.equal(weight, own), name
    shapes = {name: (weight.shape, weight.dtype) for name, weight in plain.named_parameters()}
    assert shapes == {name: (weight.shape, weight.dtype) for name, weight in changed.named_parameters()}
    x = torch.randn(3, 64)
    torch.testing.assert_close(changed.output(x), plain.output(x), atol=1e-5, rtol=1e-5)


def test_a_copy_of_a_packed_model_shares_nothing():
    model = _model()
    copied = copy.deepcopy(model)
    before = model.output.weight.to_dense().clone()
    copied.load_state_dict({name: torch.zeros_like(w) for name, w in copied.state_dict().items()})
    assert torch.equal(model.output.weight.to_dense(), before)


def test_wrong_state_dicts_are_refused_by_name():
    model, state = _model(), _model().state_dict()
    with pytest.raises(RuntimeError, match="output.weight"):
        model.load_state_dict({name: w for name, w in state.items() if name != "output.weight"})
    with pytest.raises(RuntimeError, match="size mismatch for output.weight"):
        model.load_state_dict(state | {"output.weight": torch.zeros(3, 3)})


def test_layers_with_a_bias_or_of_other_types_stay():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False).double())
    pack_linears(module)
    assert not any(isinstance(m, PackedLinear) for m in module)
