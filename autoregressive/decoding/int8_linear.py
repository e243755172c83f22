"""Linear layers with weights of 8 bits, for decoding: a quarter of float32's memory to read a pass.

Weights have a scale an output; on CPUs inputs are rounded to 7 bits too, with a scale a row, so that a row's
result is the same in any batch and at any window.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from autoregressive.decoding.packed_linear import replace_layers
from runtime.errors import UserError

WEIGHT_STEPS = 127
INPUT_STEPS = 63
"""Of 7 bits: without VNNI a CPU adds pairs of products in 16 bits, which those of 8 and 8 bits overflow."""


class Int8Linear(nn.Module):
    """About what a bias-free `nn.Linear` computes, by FBGEMM's product of 8-bit integers."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / WEIGHT_STEPS
        self._set((weight / scale[:, None]).round().to(torch.int8), scale)

    def _set(self, weight: Tensor, scale: Tensor) -> None:
        """Packs (out, in) integers and (out,) scales."""
        with warnings.catch_warnings():  # quantized tensors leave PyTorch some day; its product needs one
            warnings.simplefilter("ignore")
            zero = torch.zeros(len(scale), dtype=torch.long)
            quantized = torch._make_per_channel_quantized_tensor(weight, scale.double(), zero, 0)
            self._packed = torch.ops.quantized.linear_prepack(quantized, None)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).float()
        largest = rows.abs().amax(1, keepdim=True)
        # A row that is not finite stays so: its largest number is not.
        scaled = rows / torch.where(largest > 0, largest, 1)
        product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            scaled.nan_to_num(), 1 / INPUT_STEPS, INPUT_STEPS + 1, self._packed
        )
        return (product * largest).to(x.dtype).view(*x.shape[:-1], product.shape[1])

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        raise UserError("weights of 8 bits are for decoding and are not saved: load the model without int8")

    def __getstate__(self) -> dict[str, Any]:
        """For `pickle` and `deepcopy`, which cannot read packed memory."""
        quantized, _ = torch.ops.quantized.linear_unpack(self._packed)
        weight = quantized.int_repr(), quantized.q_per_channel_scales().float()
        return {name: value for name, value in self.__dict__.items() if name != "_packed"} | {"int8": weight}

    def __setstate__(self, state: dict[str, Any]) -> None:
        weight = state.pop("int8")
        super().__setstate__(state)
        self._set(*weight)


def quantize_linears(model: nn.Module, device: torch.device) -> None:
    """Gives the bias-free linear layers inside `model`, which is on `device`, weights of 8 bits for good.

    Raises:
      UserError: what it needs is not here.
    """
    if device.type != "cpu":
        _quantize_by_torchao(model)
        return
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        raise UserError("int8 on a CPU needs a PyTorch with FBGEMM (x86): take --precision none")
    replace_layers(model, _wanted, Int8Linear)


def require_movable(model: nn.Module, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
    """Refuses what packed weights cannot follow: another device than the CPU, another type.

    Raises:
      UserError: `model` has such weights.
    """
    leaves = device is not None and torch.device(device).type != "cpu"
    if (leaves or dtype is not None) and any(isinstance(layer, Int8Linear) for layer in model.modules()):
        raise UserError(
            f"weights of 8 bits that a CPU made stay there: load the model with device={str(device)!r}"
            if leaves
            else f"weights of 8 bits have no way back to {dtype}: load the model with that type"
        )


def _wanted(layer: nn.Module, _: str = "") -> bool:
    return isinstance(layer, nn.Linear) and layer.bias is None


def _quantize_by_torchao(model: nn.Module) -> None:
    """Weights alone have 8 bits, which products read."""
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise UserError("int8 on a GPU needs torchao: pip install torchao") from error
    quantize_(model, Int8WeightOnlyConfig(), _wanted)
