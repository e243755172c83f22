"""Linear layers in oneDNN's own memory layout, for models that only run on CPUs.

The ordinary product of a few rows with a weight matrix, as in a decoding step, is no faster than the product
of many; packed, it is two (bfloat16) to four times (float32) as fast, and large ones gain some percent too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """What a bias-free `nn.Linear` computes, without gradients; its weight is opaque."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")

    def unpacked(self) -> nn.Linear:
        """The layer it was made of."""
        weight = self.packed.to_dense()
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight = nn.Parameter(weight)
        return linear

    def _apply(self, fn, recurse: bool = True):
        raise RuntimeError("a packed model stays as and where it is; use unpack_linears(model) before")

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        destination[prefix + "weight"] = self.packed.to_dense()


def can_pack(weight: Tensor) -> bool:
    """Whether layers of such weights can be packed here."""
    return (
        weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and (
            weight.dtype == torch.float32
            or weight.dtype == torch.bfloat16
            and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
    )


def pack_linears(module: nn.Module) -> None:
    """Replaces the linear layers inside `module` where this machine has a packed form; frees the old ones."""

    def wanted(layer: nn.Module) -> bool:
        return isinstance(layer, nn.Linear) and layer.bias is None and can_pack(layer.weight)

    _replace(module, wanted, PackedLinear)


def unpack_linears(module: nn.Module) -> None:
    """Takes `pack_linears` back, bit for bit."""
    _replace(module, lambda m: isinstance(m, PackedLinear), PackedLinear.unpacked)


def _replace(module: nn.Module, wanted, make) -> None:
    for name, child in list(module.named_children()):
        if wanted(child):
            setattr(module, name, make(child))
        else:
            _replace(child, wanted, make)
