"""The arithmetic of plan_run.py; the model is built without memory, so its sizes are the real ones."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from autoregressive.models.config import GPT_MODELS, ModelConfig
from autoregressive.models.flops import PEAKS, training_flops
from autoregressive.models.gpt import Transformer
from runtime.errors import UserError
from runtime.training.adamw8bit import block_of
from runtime.training.checkpoints import count_saves
from scripts.planning.config import PlanRun

GB = 1e9
FLOAT, HALF = 4, 2  # bytes


class Plan(NamedTuple):
    """What a training takes; bytes where nothing else is said."""

    parameters: int
    slots: float
    """Of a sample's sequence."""
    steps: int
    flops: float
    hours: float
    data: float
    """Packed: codes, masks and text features."""
    states: float
    """Of a rank: weights, gradients, the averages of both. Activations come on top."""
    gathered: float
    """Weights of others that a rank holds at most, where they are sharded."""
    checkpoint: float
    num_saves: int
    """With one at the end of each epoch, as trainings have it without `--no-epoch-save`."""


def model_config(config: PlanRun) -> ModelConfig:
    """That of the model for these images."""
    cells = (config.image_size // config.cell_size) ** 2
    model = replace(GPT_MODELS[config.gpt_model], block_size=cells, mask_in_context=config.stage == "editing")
    return replace(
        model,
        vocab_size=config.codebook_size or model.vocab_size,
        caption_dim=config.t5_feature_dim or model.caption_dim,
    )


def make_plan(config: PlanRun) -> Plan:
    """Adds up what the flags ask for.

    Raises:
      UserError: a GPU whose peak is not known, or ranks that cannot be split into groups.
    """
    model = model_config(config)
    cells = model.block_size
    with torch.device("meta"):
        network = Transformer(model)
    sizes = {name: weight.numel() for name, weight in network.named_parameters()}
    parameters = sum(sizes.values())
    edits = config.stage == "editing"
    predicted = cells * config.edited_share if edits else cells
    # An edit: source codes, marks, and the edited cells but for the last, which nothing follows.
    slots = config.text_tokens + (2 * cells + predicted - 1 if edits else cells - 1)
    epoch = config.num_samples // config.global_batch_size
    steps = epoch * config.epochs
    flops = training_flops(model, slots, predicted, config.text_tokens) * steps * config.global_batch_size
    averages = FLOAT * parameters * (config.ema_decay > 0)
    moments = _moments(network, config.optimizer)
    codes = HALF * cells * (2 if edits else 1) + (cells / 8 if edits else 0)
    ranks = _sharing_ranks(config)
    largest = max(
        sum(s for n, s in sizes.items() if n.startswith(f"layers.{i}.")) for i in range(model.n_layer)
    )
    return Plan(
        parameters=parameters,
        slots=slots,
        steps=steps,
        flops=flops,
        hours=flops / (_peak(config) * config.utilisation * config.num_gpus) / 3600,
        data=config.num_samples * (codes + HALF * config.text_tokens * model.caption_dim),
        states=(2 * FLOAT * parameters + moments + averages) / ranks,
        # Two blocks, the one that runs and the next, and the output head; in half precision.
        gathered=0 if ranks == 1 else HALF * (2 * largest + sizes["output.weight"]),
        checkpoint=FLOAT * parameters + moments + averages,
        num_saves=count_saves(steps, config.ckpt_every, epoch),
    )


def _moments(network: Transformer, optimizer: str) -> float:
    """Bytes that the optimizer keeps: of two numbers a parameter (AdamW), or of one for a matrix's (Muon)."""
    if optimizer == "adamw8bit":
        return sum(2 * _average(weight) for weight in network.parameters())
    matrices = ("layers.", "output.", "cls_embedding.") if optimizer == "muon" else ()
    return FLOAT * sum(
        weight.numel() * (1 if name.startswith(matrices) and "norm" not in name else 2)
        for name, weight in network.named_parameters()
    )


def _average(weight: Tensor) -> float:
    """Bytes of one average of AdamW8bit: a code a number, a scale a block; small ones are float32."""
    block = block_of(weight)
    return weight.numel() * (FLOAT if block is None else 1 + FLOAT / block)


def _sharing_ranks(config: PlanRun) -> int:
    """Ranks that share one copy of the weights."""
    if config.parallel == "ddp":
        return 1
    size = config.num_gpus if config.parallel == "fsdp" else config.shard_size or min(8, config.num_gpus)
    if config.num_gpus % size:
        raise UserError(f"--shard-size {size} does not divide --num-gpus {config.num_gpus}")
    return size


def _peak(config: PlanRun) -> float:
    """Operations a second at most."""
    if config.peak_tflops is not None:
        return config.peak_tflops * 1e12
    if config.gpu not in PEAKS:
        raise UserError(
            f"--gpu {config.gpu}: its peak is not known; use one of {', '.join(PEAKS)}, or give --peak-tflops"
        )
    return PEAKS[config.gpu]


def show(config: PlanRun) -> None:
    """Prints the plan."""
    plan = make_plan(config)
    kept = min(plan.num_saves, config.max_checkpoints) if config.max_checkpoints > 0 else plan.num_saves
    tokens = plan.slots * plan.steps * config.global_batch_size
    written = plan.num_saves * plan.checkpoint
    rows = {
        "model": f"{config.gpt_model}, {plan.parameters / 1e6:.1f} M parameters",
        "sequence": f"{plan.slots:.0f} slots a sample, {tokens:.3g} tokens in all",
        "steps": f"{plan.steps} of {config.global_batch_size} samples",
        "work": f"{plan.flops:.3g} operations; {plan.hours:.3g} hours on {config.num_gpus} x "
        f"{config.gpu if config.peak_tflops is None else f'{config.peak_tflops:g} TFLOP/s'} at "
        f"{config.utilisation:.0%} of its peak",
        "data": f"{plan.data / GB:.1f} GB packed (codes and text features), for {config.num_samples} samples",
        "memory": f"{plan.states / GB:.2f} GB a rank for weights, gradients and optimizer, "
        f"{plan.gathered / GB:.2f} GB gathered (twice that in float32); activations come on top "
        "(--dry-run measures them)",
        "checkpoints": f"{plan.checkpoint / GB:.2f} GB each, {kept} kept: "
        f"{kept * plan.checkpoint / GB:.1f} GB; "
        f"{plan.num_saves} written: {written / GB:.0f} GB, {written / GB / plan.hours:.1f} GB an hour",
    }
    for name, words in rows.items():
        print(f"{name:<12} {words}")
