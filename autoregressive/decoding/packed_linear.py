"""Linear layers in oneDNN's own memory layout, for models that only run on CPUs.

The ordinary product of a few rows with a weight matrix, as in a decoding step, is no faster than the product
of many; packed, it is two (bfloat16) to four times (float32) as fast, and large ones gain some percent too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """What a bias-free `nn.Linear` computes, without gradients.

    `weight` (out, in) is opaque: of its size and type, readable by `to_dense()`. Copies, pickles, state dicts
    and moves work as those of the plain layer; where a weight cannot be packed (on a GPU, say) it is plain.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._set(linear.weight.detach())

    def _set(self, weight: Tensor) -> None:
        if can_pack(weight):
            weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.is_mkldnn:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")
        return F.linear(x, self.weight)

    def unpacked(self) -> nn.Linear:
        """The layer it was made of."""
        weight = self._dense()
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight = nn.Parameter(weight)
        return linear

    def _dense(self) -> Tensor:
        weight = self.weight.detach()
        return weight.to_dense() if weight.is_mkldnn else weight

    def _apply(self, fn, recurse: bool = True):
        self._set(fn(self._dense()))
        return self

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        destination[prefix + "weight"] = self._dense()

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        given = state_dict.get(prefix + "weight")
        if given is None:
            missing.append(prefix + "weight")
        elif given.shape != self.weight.shape:
            shapes = f"{tuple(given.shape)}, the model's is {tuple(self.weight.shape)}"
            errors.append(f"size mismatch for {prefix}weight: the checkpoint's is {shapes}")
        else:
            self._set(given.detach().to(self.weight.device, self.weight.dtype, copy=True))

    def __getstate__(self) -> dict:
        """For `pickle` and `deepcopy`, which cannot read opaque memory."""
        return self.__dict__ | {"_parameters": {"weight": nn.Parameter(self._dense(), requires_grad=False)}}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._set(self._dense())


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

    replace_layers(module, wanted, PackedLinear)


def unpack_linears(module: nn.Module) -> None:
    """Takes `pack_linears` back, bit for bit."""
    replace_layers(module, lambda m: isinstance(m, PackedLinear), PackedLinear.unpacked)


def replace_layers(
    module: nn.Module, wanted: Callable[[nn.Module], bool], make: Callable[[Any], nn.Module]
) -> None:
    """Puts others in the place of wanted layers inside `module`, one by one: each old one is freed."""
    for name, child in list(module.named_children()):
        if wanted(child):
            setattr(module, name, make(child))
        else:
            replace_layers(child, wanted, make)
