"""Useful floating-point operations: what the computation needs, whatever way it is done."""

from __future__ import annotations

import torch
from torch import Tensor

from autoregressive.models.config import ModelConfig
from autoregressive.sequence.layout import TEXT, TrainingLayout

Number = float | Tensor

# Dense half-precision matrix rates of the vendors' data sheets, operations a second; first match counts.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def trunk_parameters(config: ModelConfig) -> int:
    """Weights that multiply every slot: 4 D² of attention and 3 D·hidden of SwiGLU a layer."""
    return config.n_layer * (4 * config.dim**2 + 3 * config.dim * config.hidden_dim)


def head_parameters(config: ModelConfig) -> int:
    return config.vocab_size * config.dim


def forward_flops(config: ModelConfig, slots: Number, predicted: Number, text_slots: Number) -> Number:
    """Operations of one sample's forward pass.

    Two for every weight that a slot passes (Kaplan et al. 2020, section 2.1), and for attention 4·L²·D a
    layer (PaLM, Chowdhery et al. 2022, appendix B), of which a causal mask leaves half. The output head
    counts for predicted slots only, the caption's two matrices for text slots only; embeddings and norms do
    not count. The last layer counts for all slots, as is the custom, though only predicted ones need it.

    Args:
      slots: L, all slots of the sequence, text included; no padding.
      predicted: slots that are scored.
      text_slots: slots with a caption feature.
    """
    caption = config.caption_dim * config.dim + config.dim**2
    weights = trunk_parameters(config) * slots + head_parameters(config) * predicted + caption * text_slots
    return 2 * weights + 2 * config.n_layer * config.dim * slots**2


def training_flops(config: ModelConfig, slots: Number, predicted: Number, text_slots: Number) -> Number:
    """Forward and backward, which costs twice the forward pass; recomputing is no useful work."""
    return 3 * forward_flops(config, slots, predicted, text_slots)


def batch_flops(config: ModelConfig, layout: TrainingLayout) -> Tensor:
    """`training_flops` of a batch, a float64 number.

    Padding and slots behind the last supervised one do not count.
    """
    used = layout.used_slots()
    if layout.sample_ids is None:
        lengths = used.sum(1).double()
    else:  # at most as many samples as slots
        lengths = used.new_zeros(used.numel(), dtype=torch.float64)
        lengths.index_add_(0, layout.sample_ids.flatten(), used.flatten().double())
    text_slots = (used & (layout.cells == TEXT)).sum()
    return training_flops(config, lengths, 0, 0).sum() + training_flops(
        config, 0, len(layout.supervised), text_slots
    )


def peak_flops(device: torch.device) -> float | None:
    """Operations a second of `device` in half precision; None if it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAKS.items() if key in name), None)
