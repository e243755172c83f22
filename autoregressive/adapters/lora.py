"""Which weights of a transformer train with LoRA (Hu et al. 2021) or DoRA (Liu et al. 2024): by peft.

Letters: r rank. A matrix W (out, in) becomes W + alpha/r · B A, with A (r, in) and B (out, r), which begins
as zeros; DoRA scales each row of that to a length that is trained too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoregressive.models.arithmetic import OWN_CELL_TABLE
from autoregressive.models.config import BLOCK_MATRICES
from autoregressive.models.gpt import Transformer
from autoregressive.models.weights import MARKS, POSITION_TABLE
from runtime.errors import UserError
from runtime.logging import get_logger

log = get_logger(__name__)
TABLES = (POSITION_TABLE, OWN_CELL_TABLE, *MARKS)
"""What may train along: positions, own cells, marks."""
_SAMPLES = 4  # of each adapted weight


@dataclass(frozen=True)
class Lora:
    """What an adapter is, and which weights it belongs to; a checkpoint of its training holds it.

    Attributes:
      tables: those of `TABLES` that train along.
      base: the file of the base weights.
      base_sample: some of them, see `weights_sample`.
      targets: those of `BLOCK_MATRICES` that are adapted.
    """

    rank: int
    alpha: float
    dora: bool
    tables: tuple[str, ...]
    base: str
    base_sample: tuple[float, ...]
    targets: tuple[str, ...] = BLOCK_MATRICES


def require_peft() -> Any:
    """peft's module, which takes seconds to import.

    Raises:
      UserError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise UserError(f"LoRA needs peft ({error}): pip install -e '.[lora]'") from error
    return peft


def peft_config(rank: int, alpha: float, *, dora: bool, base: str, targets: Sequence[str]) -> Any:
    """peft's `LoraConfig` of adapters here."""
    return require_peft().LoraConfig(
        r=rank,
        lora_alpha=alpha,
        use_dora=dora,
        target_modules=list(targets),
        base_model_name_or_path=base,
    )


def add_lora(
    model: Transformer,
    rank: int,
    alpha: float,
    base: str,
    *,
    dora: bool = False,
    train_tables: bool = False,
    targets: Sequence[str] = BLOCK_MATRICES,
) -> None:
    """Freezes `model` and puts layers of rank r beside its blocks' matrices; it computes what it did.

    The values of A come from torch's generator.

    Args:
      base: the file of its weights, to be named in checkpoints.
      train_tables: its tables of positions, own cells and marks train too.
      targets: those of `BLOCK_MATRICES` to adapt.
    Raises:
      UserError: peft is not installed.
    """
    sample = weights_sample(model)
    targets = tuple(name for name in BLOCK_MATRICES if name in targets)
    config = peft_config(rank, alpha, dora=dora, base=base, targets=targets)
    require_peft().inject_adapter_in_model(config, model)
    tables = tuple(name for name in TABLES if train_tables and isinstance(getattr(model, name), nn.Parameter))
    for name in tables:
        getattr(model, name).requires_grad_(True)
    model.lora = Lora(rank, float(alpha), dora, tables, base, sample, targets)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    number = sum(p.numel() for p in model.parameters())
    log.info(
        "%s of rank %d on %s: %.3f of %.2f M parameters train (%.2f %%)",
        "DoRA" if dora else "LoRA",
        rank,
        base,
        trained / 1e6,
        number / 1e6,
        100 * trained / number,
    )


def lora_of(model: nn.Module) -> Lora | None:
    """What `add_lora` has made of a model."""
    return getattr(model, "lora", None)


def trained_part(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a state by the names of `model` is trained there: all but the base weights, with LoRA."""
    if lora_of(model) is None:
        return dict(state)
    return {name: state[name] for name, weight in model.named_parameters() if weight.requires_grad}


def frozen_names(model: nn.Module) -> list[str]:
    """The names of the base weights; none without LoRA."""
    state = model.state_dict()
    return sorted(state.keys() - trained_part(model, state).keys())


def require_same_lora(saved: Any, model: nn.Module, path: str) -> None:
    """
    Args:
      saved: what the checkpoint `path` says of its adapter; None: it holds a whole model.
    Raises:
      UserError: it is another one than that of `model`, or of other weights.
    """
    own = lora_of(model)
    if saved is None and own is None:
        return
    if own is None:
        flags = f"--lora-rank {saved['rank']}" + (" --lora-dora" if saved["dora"] else "")
        raise UserError(f"{path} was trained with LoRA: give {flags}, as that run did")
    if saved is None:
        raise UserError(
            f"{path} was trained without LoRA: start an adapter on its weights with --init-gpt-ckpt"
        )
    there_all = {"targets": BLOCK_MATRICES, **saved}  # earlier checkpoints do not name theirs
    for name in ("rank", "alpha", "dora", "tables", "targets"):
        there, here = there_all[name], getattr(own, name)
        if (tuple(there) if isinstance(there, list) else there) != here:
            raise UserError(
                f"{path} was trained with LoRA of another {name}: {there} there and {here} here; give the "
                "flags of that run"
            )
    if tuple(saved["base_sample"]) != own.base_sample:
        raise UserError(
            f"{path} is an adapter of {saved['base']}, and {own.base} holds other weights: give that run's "
            "--init-gpt-ckpt"
        )


def targets_of(model: nn.Module) -> dict[str, nn.Module]:
    """The adapted layers by their names."""
    return {n: layer for n, layer in model.named_modules() if n.rpartition(".")[2] in BLOCK_MATRICES}


def dense_weight(layer: nn.Module) -> Tensor:
    """(out, in) of a linear layer, packed or not.

    Raises:
      UserError: its weights are integers.
    """
    weight = getattr(layer, "weight", None)
    if weight is None or type(weight) is not nn.Parameter:
        raise UserError("adapters go onto weights of 16 or 32 bits: load the model without int8")
    return layer.state_dict()["weight"]


def weights_sample(model: nn.Module) -> tuple[float, ...]:
    """Some values of each layer that can be adapted: tells models apart, in any type of their weights."""
    values = []
    for layer in targets_of(model).values():
        weight = dense_weight(layer).detach().flatten()
        places = torch.arange(_SAMPLES, device=weight.device) * (len(weight) // _SAMPLES)
        values += weight[places].tolist()
    return tuple(values)
