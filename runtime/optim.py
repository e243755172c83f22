"""Optimizers and learning-rate schedules shared by the tokenizer and the transformer."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import nn

from runtime.devices import multiplies_bfloat16
from runtime.sharding.tensors import is_sharded, own_part, sharded_like, whole_tensor
from runtime.training.adamw8bit import AdamW8bit
from runtime.training.weight_by_weight import WeightByWeight

MUON_MOMENTUM = 0.95
# What the flags say of a group; the rest of an optimizer's state is what training has made.
_FROM_FLAGS = ("lr", "initial_lr", "betas", "momentum", "weight_decay")
# Settings by which kinds are told apart: AdamW has the first and the last, AdamW8bit the first alone.
_OF_A_KIND = ("betas", "ns_steps", "dampening", "fused")


def gradient_norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """The 2-norm of all gradients together, () float32, the same on all ranks.

    Added up in float64: in float32 its last digit follows the order of the sum, which is another one where
    gradients are sharded, and clipping hands it on to the rounding of every gradient, which Muon makes large.
    """
    whole, sharded = [], []
    for gradient in gradients:
        square = torch.linalg.vector_norm(own_part(gradient.detach()), dtype=torch.float64).square()
        (sharded if is_sharded(gradient) else whole).append(square)
    sums = [torch.stack(squares).sum() for squares in (whole, sharded) if squares]
    if sharded:
        mesh = next(gradient.device_mesh for gradient in gradients if is_sharded(gradient))
        torch.distributed.all_reduce(sums[-1], group=mesh.get_group(mesh.ndim - 1))
    return torch.stack(sums).sum().sqrt().float() if sums else torch.zeros(())


class Optimizers:
    """Several torch optimizers that step as one."""

    def __init__(
        self, members: list[torch.optim.Optimizer], matrix_views: dict[nn.Parameter, nn.Parameter]
    ) -> None:
        self.members = members
        self._matrix_views = matrix_views
        for group in self.param_groups:
            group.setdefault("initial_lr", group["lr"])

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for member in self.members for group in member.param_groups]

    def scale_lr(self, factor: float) -> None:
        """Sets every group's rate to `factor` times its initial one."""
        for group in self.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def step(self, scaler: torch.amp.GradScaler, skip: torch.Tensor | None = None) -> None:
        """Steps every member.

        Args:
          scaler: an enabled one decides by itself what to skip.
          skip: bool on the parameters' device; True leaves all as it is. Fused optimizers do not wait for it.
        """
        for parameter, view in self._matrix_views.items():
            view.grad = None if parameter.grad is None else _as_matrix(parameter.grad, like=parameter)
        for member in self.members:
            if scaler.is_enabled() or skip is None:
                scaler.step(member)
            elif getattr(member, "_step_supports_amp_scaling", False):
                member.found_inf = skip.float()  # as loss scalers tell it
                member.step()
            elif not skip:
                member.step()

    def clip(self, module: nn.Module, max_norm: float, scaler: torch.amp.GradScaler) -> torch.Tensor:
        """Undoes the loss scale and clips the gradient of `module`; 0 clips nothing. Returns its norm."""
        for member in self.members:
            scaler.unscale_(member)
        norm = gradient_norm([p.grad for p in module.parameters() if p.grad is not None])
        if max_norm > 0:
            nn.utils.clip_grads_with_norm_(module.parameters(), max_norm, norm)
        return norm

    def zero_grad(self) -> None:
        """Drops the gradients."""
        for member in self.members:
            member.zero_grad(set_to_none=True)
        for parameter in self._matrix_views:
            parameter.grad = None

    def places(self) -> dict[tuple[Any, ...], nn.Parameter]:
        """The parameters, by the keys that lead to what is kept of each in `state_dict`."""
        return {
            (*(("members", m) if len(self.members) > 1 else ()), "state", number): parameter
            for m, member in enumerate(self.members)
            for number, parameter in enumerate(p for group in member.param_groups for p in group["params"])
        }

    def state_dict(self) -> dict[str, Any]:
        """One optimizer's own state (the published layout), or {"members": [...]} for several."""
        states = [member.state_dict() for member in self.members]
        return states[0] if len(states) == 1 else {"members": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the moments and the counts; rates, betas and decay stay those of this run's flags.

        Raises:
          ValueError: they are another kind's, which torch would take and stumble over at the next step.
        """
        states = state.get("members", [state])
        if len(states) != len(self.members):
            raise ValueError(f"the state holds {len(states)} optimizers, this run has {len(self.members)}")
        for member, member_state in zip(self.members, states, strict=True):
            if _kind(member_state["param_groups"]) != _kind(member.param_groups):
                raise ValueError(f"the state is not one of {type(member).__name__}")
            own = [{n: group[n] for n in _FROM_FLAGS if n in group} for group in member.param_groups]
            member.load_state_dict(member_state)
            for group, settings in zip(member.param_groups, own, strict=True):
                group.update(settings)


def _kind(groups: list[dict[str, Any]]) -> set[str]:
    return {name for name in _OF_A_KIND for group in groups if name in group}


def build_optimizer(
    module: nn.Module,
    name: str = "adamw",
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    muon_lr: float = 0.02,
) -> Optimizers:
    """AdamW as published, or Muon on the matrices with AdamW on the rest.

    AdamW decays parameters of two or more dimensions only. Muon (Jordan et al. 2024, `torch.optim.Muon`)
    takes every linear map, convolution kernels as (out, in·h·w); embeddings, tables, gains and biases stay
    with AdamW. First and last layers are included against its authors' advice for language models: for the
    small tokenizer that was worth 6 dB after 400 steps, for the small transformer 0.4 nats after 50.

    Args:
      name: "adamw", "adamw8bit" (its averages in 8 bits), "muon", or "sgd" (plain, for tests of exactness).
      lr: AdamW's rate (also SGD's).
      muon_lr: Muon's rate.
    """
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    if name == "sgd":
        return Optimizers([torch.optim.SGD(parameters.values(), lr=lr)], {})
    matrices = {n: p for n, p in parameters.items() if name == "muon" and _is_matrix(module, n, p)}
    rest = [p for n, p in parameters.items() if n not in matrices]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]  # of low-rank layers all are matrices
    adamw = AdamW8bit if name == "adamw8bit" else partial(torch.optim.AdamW, fused=True)
    members: list[torch.optim.Optimizer] = [adamw(groups, lr=lr, betas=betas)] if groups else []
    views: dict[nn.Parameter, nn.Parameter] = {}
    if matrices:
        device = next(iter(matrices.values())).device
        sharded = any(is_sharded(p) for p in matrices.values())
        dtype = torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
        plain = dtype is torch.bfloat16 and not sharded
        muon = torch.optim.Muon if plain else partial(WholeMatrixMuon, dtype=dtype)
        # torch's Muon takes matrices only; a view shares the kernel's storage: stepping it steps the kernel.
        views = {p: nn.Parameter(_as_matrix(p.detach(), like=p)) for p in matrices.values() if p.dim() > 2}
        members.append(
            muon(
                [views.get(p, p) for p in matrices.values()],
                lr=muon_lr,
                weight_decay=weight_decay,
                momentum=MUON_MOMENTUM,
            )
        )
    return Optimizers(members, views)


class WholeMatrixMuon(WeightByWeight, torch.optim.Muon):
    """torch's Muon with its products in `dtype`: for devices that have none in bfloat16, and for matrices of
    which every rank keeps a part. Of these the update is gathered, one matrix after the other."""

    def __init__(self, params: list[nn.Parameter], dtype: torch.dtype = torch.float32, **settings) -> None:
        super().__init__(params, **settings)
        self._dtype = dtype

    def _step_one(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(average, group["momentum"]) if group["nesterov"] else average
        rate = group["lr"] * math.sqrt(max(1.0, len(parameter) / parameter.shape[1]))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        matrix = whole_tensor(update).to(self._dtype)
        change = orthogonalized(matrix, group["ns_coefficients"], group["ns_steps"]).to(parameter.dtype)
        parameter.sub_(sharded_like(parameter, change), alpha=rate)


def orthogonalized(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], num_iterations: int
) -> torch.Tensor:
    """About U·Vᵀ of a (m, n) matrix U·S·Vᵀ, by the quintic Newton–Schulz iteration of Jordan et al. 2024."""
    wide = matrix.T if len(matrix) > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=1e-7)
    a, b, c = coefficients
    for _ in range(num_iterations):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if len(matrix) > matrix.shape[1] else wide


def _as_matrix(kernel: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(out, in, h, w) → (out, in·h·w), columns in the memory order of `like`, so that a parameter in any
    memory format (channels-last too) gives a view of itself."""
    columns = sorted(range(1, like.dim()), key=like.stride, reverse=True)
    return kernel.permute(0, *columns).flatten(1)


def _is_matrix(module: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    owner = module.get_submodule(name.rpartition(".")[0])
    return isinstance(owner, nn.Linear | nn.Conv2d) and parameter.dim() >= 2


def lr_factor(
    step: int,
    total_steps: int,
    schedule: str = "constant",
    *,
    warmup_steps: int = 0,
    pct_start: float = 0.3,
    final_div_factor: float = 1e4,
    annealing: str = "cos",
) -> float:
    """The learning rate of a step as a fraction of the peak; pure, so that a resume needs no state.

    Args:
      step: steps done, from 0.
      schedule: "constant", "cosine" (to zero), or "onecycle" (Smith & Topin 2017, as `OneCycleLR`: from
        1/25 of the peak up within `pct_start`, down to 1/25/`final_div_factor`).
      warmup_steps: linear warm-up, for constant and cosine.
      annealing: "cos" or "linear", for one-cycle.
    """
    if schedule == "onecycle":
        peak_at = max(pct_start * total_steps - 1, 1)
        low, floor = 1 / 25, 1 / 25 / final_div_factor
        if step <= peak_at:
            return _anneal(low, 1.0, step / peak_at, annealing)
        return _anneal(1.0, floor, (step - peak_at) / max(total_steps - 1 - peak_at, 1), annealing)
    warm = min((step + 1) / warmup_steps, 1.0) if warmup_steps else 1.0
    if schedule == "constant":
        return warm
    if schedule == "cosine":
        done = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
        return warm * _anneal(1.0, 0.0, min(max(done, 0.0), 1.0), "cos")
    raise ValueError(f"unknown schedule {schedule!r}; use constant, cosine or onecycle")


def _anneal(start: float, end: float, fraction: float, shape: str) -> float:
    fraction = min(fraction, 1.0)
    return start + (end - start) * ((1 - math.cos(math.pi * fraction)) / 2 if shape == "cos" else fraction)
