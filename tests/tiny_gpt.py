"""A small transformer with sharp logits, and a ragged batch for it."""

from __future__ import annotations

import torch
from torch import Tensor

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.models.gpt import build_gpt

V, N, C, T = 32, 16, 8, 5
GREEDY = Sampling(cfg_scale=1, sample_logits=False)


def tiny(name: str = "R-GPT-tiny", **overrides):
    torch.manual_seed(0)
    model = build_gpt(name, vocab_size=V, block_size=N, caption_dim=C, cls_token_num=8, **overrides).eval()
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
