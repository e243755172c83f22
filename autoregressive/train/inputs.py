"""From batches of images and captions to layouts and text: the only thing in which the two stages differ.

Letters: B batch, N cells, T text slots, C caption width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autoregressive.models.config import ModelConfig
from autoregressive.models.gpt import Transformer
from autoregressive.sequence.builders import editing_layout, t2i_layout
from autoregressive.sequence.layout import TrainingLayout
from autoregressive.sequence.orders import edit_orders, random_orders, region_orders
from autoregressive.sequence.packing import pack_rows
from autoregressive.train.config import EditingConfig, T2IConfig, TrainConfig
from dataset.samples import EditBatch, T2IBatch, Text
from language.t5 import T5Encoder, encode_texts
from language.text_features import TextFeatures, stack_text_features
from runtime.precision import autocast
from tokenizer.tokenizer_image.vq_model import VQModel

MakeInputs = Callable[[T2IBatch | EditBatch, int], tuple[TrainingLayout, Tensor]]

# Second word of the entropy beside a sample's seed, so that its choices use different random streams.
CAPTION_DROP, FULL_MASK, REGION_ORDER = 2, 3, 4


@dataclass(frozen=True)
class Encoders:
    """The frozen models that turn images and captions into what the transformer reads."""

    tokenizer: VQModel
    text_encoder: T5Encoder | None
    """None where all texts come as features."""
    text_width: int
    """C, of encoded texts and of ready-made features alike."""
    max_tokens: int
    """Most text slots; features beyond are cut off."""
    tokenizer_precision: str = "none"
    """Autocast type of the tokenizer."""

    def codes(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) images → (B, N) codes on the CPU; what is codes already passes through."""
        return to_codes(self.tokenizer, images, self.tokenizer_precision)

    def features(self, texts: list[Text]) -> list[TextFeatures]:
        """Features of each text, string or features already."""
        return encode_texts(self.text_encoder, texts)

    def text(self, texts: list[Text]) -> tuple[Tensor, Tensor]:
        """(B, T, C) left-padded features and (B, T) which of them are valid."""
        return stack_text_features(self.features(texts), limit=self.max_tokens)


def to_codes(tokenizer: VQModel, images: Tensor, precision: str = "none") -> Tensor:
    """(B, 3, S, S) images → (B, N) int64 codes on the CPU; codes of a cached dataset pass through."""
    if images.dim() == 2:
        return images.long()
    device = tokenizer.post_quant_conv.weight.device
    with autocast(device, precision):
        return tokenizer.encode_ids(images.to(device)).cpu()


def spoil_text(text: Tensor, *images: Tensor) -> Tensor:
    """(B, T, C) text, not-a-number where a pixel of the sample is not finite: that step is then skipped.

    The tokenizer would hide it: it gives every pixel some code.
    """
    for pixels in images:
        if pixels.is_floating_point():
            finite = torch.isfinite(pixels).flatten(1).all(1).to(text.device, non_blocking=True)
            text = torch.where(finite[:, None, None], text, torch.nan)
    return text


def drop_captions(model: Transformer, text: Tensor, seeds: list[int], rate: float) -> Tensor:
    """Puts "no caption" in place of whole captions, each with probability `rate`, drawn per sample."""
    rows = _chosen(CAPTION_DROP, seeds, rate)[:, None, None].to(text.device, non_blocking=True)
    return torch.where(rows, model.unconditional_text(text), text)


def _chosen(purpose: int, seeds: list[int], share: float) -> Tensor:
    """(B,) bool: samples that fall into the `share` of them, a coin each that nothing else uses."""
    return torch.tensor([np.random.default_rng([purpose, seed]).random() < share for seed in seeds])


def t2i_inputs(model: Transformer, encoders: Encoders, config: T2IConfig, device: torch.device) -> MakeInputs:
    """Stage 1: a fresh order for every sample, random or that of an edit (raster order for `GPT-*`)."""

    def make(batch: T2IBatch, step: int) -> tuple[TrainingLayout, Tensor]:
        codes = encoders.codes(batch.image)
        text, text_valid = encoders.text(batch.texts)
        text = spoil_text(text, batch.image)
        orders = _t2i_orders(batch.seeds, model.config, config)
        layout = t2i_layout(codes, orders, text_valid, batch.valid)
        return _finish(model, layout, text, batch.seeds, config, device)

    return make


def _t2i_orders(seeds: list[int], model: ModelConfig, config: T2IConfig) -> Tensor:
    """(B, N) the order in which each sample's cells are predicted."""
    if not model.any_order:
        return torch.arange(model.block_size).expand(len(seeds), -1)
    orders = random_orders(seeds, model.block_size)
    as_edits = _chosen(REGION_ORDER, seeds, config.region_share)
    chosen = list(itertools.compress(seeds, as_edits))
    orders[as_edits] = region_orders(chosen, model.block_size, config.region_orders)
    return orders


def editing_inputs(
    model: Transformer, encoders: Encoders, config: EditingConfig, device: torch.device
) -> MakeInputs:
    """Stage 2: source codes, marks if the model has them, edited codes in one of `--edit-orders`."""

    def make(batch: EditBatch, step: int) -> tuple[TrainingLayout, Tensor]:
        source, edited = encoders.codes(torch.cat([batch.source, batch.edited])).chunk(2)
        text, text_valid = encoders.text(batch.texts)
        text = spoil_text(text, batch.source, batch.edited)
        # One coin a step, not one a sample: a single full mask makes every row of its batch long.
        coin = np.random.default_rng([FULL_MASK, config.global_seed, step]).random()
        full = coin < config.full_mask_share
        edit_mask = batch.edit_mask | (full & batch.valid[:, None])
        layout = editing_layout(
            source,
            edited,
            edit_mask,
            text_valid,
            model.config.vocab_size,
            marks=model.config.mask_in_context,
            orders=edit_orders(batch.seeds, edit_mask, config.edit_orders),
            sample_valid=batch.valid,
            supervise_marks=config.supervise_marks,
        )
        return _finish(model, layout, text, batch.seeds, config, device)

    return make


def _finish(
    model: Transformer,
    layout: TrainingLayout,
    text: Tensor,
    seeds: list[int],
    config: TrainConfig,
    device: torch.device,
) -> tuple[TrainingLayout, Tensor]:
    """Drops captions, packs if asked to, and takes all to the device."""
    text = text.to(device, non_blocking=True).float()
    text = drop_captions(model, text, seeds, config.class_dropout_p)
    if config.packs_rows(device.type):
        layout, text = pack_rows(layout, text)
    return layout.to(device), text
