"""Rewards that other packages bring; these are optional."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autoregressive.scaling.reward import Reward
from runtime.errors import UserError


class ImageRewardScore(Reward):
    """ImageReward (Xu et al., arXiv 2304.05977), of the package image-reward, which fetches its weights."""

    name = "image_reward"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        package = import_package("ImageReward", "image-reward", self.name)
        self._model = package.load("ImageReward-v1.0", device=str(device))

    def score(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            scores = [
                float(self._model.score(text, image)) for image, text in zip(images, texts, strict=True)
            ]
        return torch.tensor(scores)


class ClipIqaScore(Reward):
    """CLIP-IQA (Wang et al., arXiv 2207.12396), of the package piq: how good a photo it is, in [0, 1].

    The texts are not read.
    """

    name = "clip_iqa"
    highest = 1.0

    def __init__(self, device: torch.device | str = "cpu") -> None:
        package = import_package("piq", "piq", self.name)
        self._model, self._device = package.CLIPIQA(data_range=1.0).to(device), device

    def score(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        pixels = [torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) for image in images]
        with torch.inference_mode(False), torch.no_grad():
            scores = [self._model(image[None].to(self._device).float() / 255).flatten() for image in pixels]
        return torch.cat(scores).float().cpu()


def import_package(module: str, package: str, reward: str) -> Any:
    """Imports an optional package, or says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"the reward {reward!r} needs the package {package}: pip install {package} ({error})"
        ) from error
