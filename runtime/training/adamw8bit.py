"""AdamW whose averages take a byte a number in the place of four.

Block-wise dynamic quantization (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization"), the
arithmetic of torchao's and bitsandbytes' AdamW8bit. Theirs cut blocks from what a rank keeps, so that a state
depends on the number of ranks; and torchao's are tensors of a class of its own, which a checkpoint that
executes nothing cannot hold. Here blocks lie in rows, and codes and scales are plain tensors.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from runtime.sharding.tensors import is_sharded, own_part, sharded_like, wrapped_like
from runtime.training.weight_by_weight import WeightByWeight

BLOCK = 256
"""Most numbers that share a scale."""
_SMALLEST = 64  # of a block: scales take a sixteenth of the codes then
_FEWEST = 4096  # numbers of a weight whose averages are coded
_SCALES = {"exp_avg_scale", "exp_avg_sq_scale"}
_AT_A_TIME = 1 << 22  # numbers that are there in float32


@lru_cache
def dynamic_values(signed: bool) -> tuple[float, ...]:
    """The 256 numbers that a code can mean, ascending, from -1 or 0 to 1: decades with ever finer steps."""
    values = [0.0, 1.0]
    for decade in range(7):
        steps = 2**decade if signed else 2 ** (decade + 1)
        edges = torch.linspace(0.1, 1, steps + 1, dtype=torch.float64)
        means = 10.0 ** (decade - 6) * (edges[:-1] + edges[1:]) / 2
        values += means.tolist() + ((-means).tolist() if signed else [])
    return tuple(sorted(values))


@lru_cache
def _values_on(device: torch.device, signed: bool) -> Tensor:
    return torch.tensor(dynamic_values(signed), device=device)


def block_of(weight: Tensor) -> int | None:
    """Numbers that share a scale in the averages of a weight, along its last dimension; None: these stay
    float32."""
    block = math.gcd(weight.shape[-1], BLOCK) if weight.dim() > 1 else 0
    return block if block >= _SMALLEST and weight.numel() >= _FEWEST else None


def encode(numbers: Tensor, block: int, signed: bool) -> tuple[Tensor, Tensor]:
    """(n, D) float32 → (n, D) uint8 codes of the nearest values, and the (n, D / block) scales."""
    blocks = numbers.unflatten(-1, (-1, block))
    scales = blocks.abs().amax(-1)
    values = _values_on(numbers.device, signed)
    unit = blocks / scales.clamp(min=1e-12)[..., None]
    codes = torch.bucketize(unit, (values[1:] + values[:-1]) / 2, out_int32=True, right=True)
    return codes.to(torch.uint8).flatten(-2), scales


def decode(codes: Tensor, scales: Tensor, signed: bool) -> Tensor:
    """What `encode` has kept."""
    blocks = _values_on(codes.device, signed)[codes.int()].unflatten(-1, (scales.shape[-1], -1))
    return (blocks * scales[..., None]).flatten(-2)


class AdamW8bit(WeightByWeight, torch.optim.Optimizer):
    """AdamW; the averages of weights with `block_of` are coded between the steps.

    A step computes in float32, a few million numbers at a time. Sharded weights are stepped part by part.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float = 0.01,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps})

    def _step_one(self, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state.update(_first_state(weight))
        state["step"] += 1
        assert own_part(weight).is_contiguous(), "a copy would be stepped"
        names = [name for name in state if name != "step"]
        rows = [_rows(tensor) for tensor in (weight, weight.grad, *(state[name] for name in names))]
        at_a_time = max(_AT_A_TIME // max(rows[0].shape[1], 1), 1)
        for parts in zip(*(tensor.split(at_a_time) for tensor in rows), strict=True):
            _update(*parts[:2], dict(zip(names, parts[2:], strict=True)), float(state["step"]), group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of any optimizer; torch's own would turn codes into floats."""
        super().load_state_dict({**state_dict, "state": {}})
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for number, entry in state_dict["state"].items():
            weight = weights[number]
            coded = block_of(weight) is not None
            if entry.keys() != {"step", "exp_avg", "exp_avg_sq"} | (_SCALES if coded else set()):
                raise ValueError(f"the averages of parameter {number} are not those of AdamW8bit")
            self.state[weight] = {name: _placed(value, weight) for name, value in entry.items()}


def _placed(value: Tensor, weight: Tensor) -> Tensor:
    """A tensor of a checkpoint, on the weight's device and sharded as it is."""
    if not value.dim() and weight.dim():
        return value.clone()  # the count of steps
    return value.clone() if is_sharded(value) else sharded_like(weight, value.to(weight.device, copy=True))


def _rows(tensor: Tensor) -> Tensor:
    """This rank's part as (n, D), in the same memory if that is contiguous, as weights and averages are."""
    own = own_part(tensor)
    return own.flatten(0, -2) if own.dim() > 1 else own.view(1, -1)


def _first_state(weight: Tensor) -> dict[str, Tensor]:
    """Averages of zero, of this rank's part."""
    block, own = block_of(weight), own_part(weight)
    state = {"step": torch.zeros(())}
    for name in ("exp_avg", "exp_avg_sq"):
        if block is None:
            state[name] = wrapped_like(weight, torch.zeros_like(own, memory_format=torch.contiguous_format))
            continue
        zero = dynamic_values(name == "exp_avg").index(0.0)
        codes = torch.full(own.shape, zero, dtype=torch.uint8, device=own.device)
        scales = torch.zeros(*own.shape[:-1], own.shape[-1] // block, device=own.device)
        state |= {name: wrapped_like(weight, codes), f"{name}_scale": wrapped_like(weight, scales)}
    return state


def _update(
    weight: Tensor, gradient: Tensor, state: dict[str, Tensor], step: float, group: dict[str, Any]
) -> None:
    """Steps some rows of a weight in place, and their averages."""
    gradient, (beta1, beta2) = gradient.float(), group["betas"]
    averages = {}
    for name, beta, new in (("exp_avg", beta1, gradient), ("exp_avg_sq", beta2, gradient.square())):
        scales, signed = state.get(f"{name}_scale"), name == "exp_avg"
        old = state[name] if scales is None else decode(state[name], scales, signed)
        averages[name] = average = old.lerp(new, 1 - beta)
        if scales is None:
            state[name].copy_(average)
        else:
            codes, new_scales = encode(average, average.shape[-1] // scales.shape[-1], signed)
            state[name].copy_(codes)
            scales.copy_(new_scales)
    height = averages["exp_avg_sq"].sqrt_().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
    weight.mul_(1 - group["lr"] * group["weight_decay"])
    weight.addcdiv_(averages["exp_avg"], height, value=-group["lr"] / (1 - beta1**step))
