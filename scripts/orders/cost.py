"""How long the gap takes on this machine: a step and a batch of edits of each size, times their numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.token_editor import TokenEditor
from autoregressive.models.config import GPT_MODELS
from autoregressive.models.gpt import Transformer
from autoregressive.models.loss import SupervisedLoss
from autoregressive.sequence.builders import t2i_layout
from autoregressive.sequence.orders import random_orders
from runtime.devices import autocast
from runtime.logging import get_logger
from runtime.optim import build_optimizer
from scripts.orders.config import BATCH, OrderGap
from tokenizer.tokenizer_image.vq_model import load_vq_model

log = get_logger(__name__)
IMAGE_SIZE = 72
TEXT, TEXT_WIDTH = 30, 128  # slots of a caption of three objects, width of the small text encoder
REGION = 24  # cells of a widened region, on average
EDITS = 64  # a batch of them
# Writing an image and encoding it, once a kind of data; measured on one core.
WRITING, ENCODING, START = 0.006, 0.006, 15.0  # seconds; the last of a program, from its import to its work


def report_cost(config: OrderGap) -> None:
    """Prints hours: of each size, and in all."""
    vq = load_vq_model(config.vq_ckpt, None)
    num_cells = (IMAGE_SIZE // vq.config.downsampling) ** 2
    num_images = 2 * config.num_train
    num_edits = config.num_test * len(config.orders)
    hours = len(config.data) * num_images * (WRITING + ENCODING) / 3600
    print(f"data: {hours:.2f} h")
    steps = sum(samples // BATCH for samples in config.points)
    trainings = len(config.points) * len(config.data)
    for name in config.gpt_models:
        model = Transformer(
            replace(
                GPT_MODELS[name],
                own_cell=True,
                vocab_size=vq.config.codebook_size,
                block_size=num_cells,
                caption_dim=TEXT_WIDTH,
            )
        )
        step = _second_call(_training_step(model, num_cells)) / config.num_ranks
        edit = _second_call(_edits(model, num_cells)) / EDITS
        training = len(config.data) * steps * step + trainings * START
        scoring = trainings * (num_edits * edit + START)
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        print(
            f"{name}: {millions:.2f} M parameters, {step:.3f} s a step of {BATCH}, {edit * 1000:.1f} ms an "
            f"edit: {trainings} trainings {training / 3600:.2f} h, scores {scoring / 3600:.2f} h"
        )
        hours += (training + scoring) / 3600
    print(f"in all about {hours:.1f} hours, with --num-ranks {config.num_ranks}, if nothing else runs here")


def _second_call(work: Callable[[], object]) -> float:
    """Seconds; the first call makes what later ones reuse."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _training_step(model: Transformer, num_cells: int) -> Callable[[], object]:
    optimizers = build_optimizer(model, "muon", lr=2e-3, weight_decay=0.0, betas=(0.9, 0.95), muon_lr=0.02)
    network = SupervisedLoss(model)
    codes = torch.randint(model.config.vocab_size, (BATCH, num_cells))
    layout = t2i_layout(codes, random_orders(list(range(BATCH)), num_cells), _valid(BATCH))
    text = torch.randn(BATCH, TEXT, TEXT_WIDTH)

    def step() -> None:
        with autocast(model.device, "bf16"):
            loss = network(layout, text)
        loss.backward()
        for member in optimizers.members:
            member.step()
        optimizers.zero_grad()

    return step


def _edits(model: Transformer, num_cells: int) -> Callable[[], object]:
    editor = TokenEditor(model)
    source = torch.randint(model.config.vocab_size, (EDITS, num_cells))
    mask = torch.zeros(EDITS, num_cells, dtype=torch.bool)
    mask[:, :REGION] = True
    text, seeds = torch.randn(EDITS, TEXT, TEXT_WIDTH), list(range(EDITS))
    return lambda: editor.edit(source, mask, text, _valid(EDITS), seeds, Sampling(1.0), "zero_shot")


def _valid(count: int) -> torch.Tensor:
    return torch.ones(count, TEXT, dtype=torch.bool)
