"""Adapters of a model in a file, as a training with LoRA leaves them; what they change is random."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from autoregressive.adapters.lora import add_lora, trained_part
from autoregressive.models.weights import load_transformer, model_args
from runtime.checkpoint import save_checkpoint


def write_trained_adapter(
    path: Path, gpt_ckpt: Path, *, seed: int = 0, rank: int = 2, dora: bool = False, change: float = 0.05
) -> Path:
    """A checkpoint of an adapter, with DoRA one of its tables too."""
    model = load_transformer(gpt_ckpt)
    add_lora(model, rank, 8, str(gpt_ckpt), dora=dora, train_tables=dora)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += change * torch.randn_like(weight)
    content = {"model": trained_part(model, model.state_dict()), "adapter": asdict(model.lora)}
    save_checkpoint(path, content | {"args": model_args("R-GPT-tiny", model.config)})
    return path
