"""A small transformer with sharp logits, and a ragged batch for it."""

from __future__ import annotations

import torch
from torch import Tensor

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.models.gpt import build_gpt
from autoregressive.sequence.layout import TrainingLayout
from autoregressive.sequence.packing import pack_rows

V, N, C, T = 32, 16, 8, 5
GREEDY = Sampling(cfg_scale=1, sample_logits=False, window=1)


def tiny(name: str = "R-GPT-tiny", **overrides):
    torch.manual_seed(0)
    sizes = {"vocab_size": V, "block_size": N, "caption_dim": C, "cls_token_num": 8, **overrides}
    model = build_gpt(name, **sizes).eval()
    torch.nn.init.normal_(model.output.weight, std=0.2)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def tiny_inputs() -> dict[str, Tensor]:
    """Eight samples: codes, targets, ragged masks, captions with padding."""
    torch.manual_seed(1)
    text = torch.randn(8, T, C)
    text_valid = torch.arange(T) >= torch.tensor([0, 1, 2, 3, 4, 0, 2, 4])[:, None]
    edit_mask = torch.rand(8, N) < torch.linspace(0.1, 1.1, 8)[:, None]
    edit_mask[0] = False
    edit_mask[0, 3] = True
    return {
        "text": text, "text_valid": text_valid, "edit_mask": edit_mask,
        "codes": torch.randint(V, (8, N)), "target": torch.randint(V, (8, N)),
    }  # fmt: skip


def pack_batch(layout: TrainingLayout, text: Tensor) -> tuple[TrainingLayout, Tensor]:
    """A batch and its (B, T, C) text as one row."""
    packed, kept = pack_rows(layout, text.shape[1])
    return packed, text.flatten(0, 1)[kept][None]
