"""Packed linear layers against the plain ones they replace."""

import pytest
import torch
from torch import nn

from autoregressive.models.gpt import build_gpt
from autoregressive.models.packed_linear import PackedLinear, can_pack, pack_linears, unpack_linears

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
    with pytest.raises(RuntimeError, match="unpack_linears"):
        model.to(torch.bfloat16)
    unpack_linears(model)
    for state in (packed, model.state_dict()):
        assert all(torch.equal(state[name], weight) for name, weight in before.items())
    model.to(torch.bfloat16)


def test_layers_with_a_bias_or_of_other_types_stay():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False).double())
    pack_linears(module)
    assert not any(isinstance(m, PackedLinear) for m in module)
