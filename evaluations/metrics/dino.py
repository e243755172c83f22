"""DINO's published vision transformers (Caron et al., arXiv 2104.14294), built by timm."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from evaluations.metrics.weights import PRETRAINED, find_weights, import_package, read_state_dict
from runtime.checkpoint import load_weights


def load_dino(
    model: str, path: str | Path | None, flag: str, title: str, file: str
) -> tuple[Path, nn.Module]:
    """A network on the CPU, and the file of its weights: `path`, or in the usual places (`find_weights`).

    Args:
      model: timm's name.
      flag: the flag that gives `path`.
      title: for messages.
      file: as published.
    Raises:
      UserError: timm is not installed, or the weights are missing or do not fit.
    """
    found = find_weights(
        path,
        flag,
        title,
        [PRETRAINED / file, Path(torch.hub.get_dir()) / "checkpoints" / file],
        {f"timm/{model}": ("model.safetensors", "pytorch_model.bin")},
        f"https://dl.fbaipublicfiles.com/dino/{file.removesuffix('.pth')}/{file}",
    )
    timm = import_package("timm", "timm")
    # Initial weights are drawn only to be replaced: the caller's random state must not notice.
    with torch.random.fork_rng(devices=[]):
        network = timm.create_model(model, pretrained=False, num_classes=0)
    # A training run's teacher has a projection head that evaluation does without.
    state = {name: weight for name, weight in read_state_dict(found).items() if not name.startswith("head.")}
    load_weights(network, state, found)
    return found, network
