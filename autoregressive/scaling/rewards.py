"""What judges an image: one small interface, and the rewards that other packages bring.

reward = build_reward("clip", pipeline)
reward.score(images, ["a red circle", "a blue star"])         # (2,), higher is better
reward.token_scores(images, texts, grid=16)                   # (2, 256), low where the image fits worst
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autoregressive.pipeline import EditingPipeline
from runtime.errors import UserError


class Reward:
    """Scores images by how well they show their texts. Letters: B images, N = grid · grid cells."""

    name = ""
    highest = math.inf
    """A score that cannot be beaten; a search stops there."""

    def check(self, texts: Sequence[str]) -> None:
        """Raises a UserError for a text that no image can be judged by; most rewards read any."""

    def score(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """(B,) float32 scores, higher is better.

        Args:
          images: B RGB images of any size.
          texts: B descriptions of what they should show.
        """
        raise NotImplementedError

    def token_scores(self, images: Sequence[Image.Image], texts: Sequence[str], grid: int) -> Tensor:
        """(B, N) float32 raster scores, low where a cell fits the text badly; comparable within an image.

        Args:
          grid: cells per side.
        Raises:
          UserError: the reward only knows whole images.
        """
        raise UserError(
            f"the reward {self.name!r} scores whole images only and cannot say where one fits worst; choose "
            "the cells by --region likelihood or --region random"
        )


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


def _clip(pipeline: EditingPipeline, clip_model: str | None, clip_ckpt: str | None) -> Reward:
    from autoregressive.scaling.clip_reward import ClipReward  # open_clip's encoders are slow to import

    return ClipReward.load(clip_model, clip_ckpt, pipeline.device)


def _likelihood(pipeline: EditingPipeline, *_: str | None) -> Reward:
    from autoregressive.scaling.likelihood import LikelihoodReward

    return LikelihoodReward(pipeline)


def _shapes(*_: Any) -> Reward:
    from autoregressive.scaling.shapes_reward import ShapesReward

    return ShapesReward()


_BUILDERS: dict[str, Callable[..., Reward]] = {
    "clip": _clip,
    ImageRewardScore.name: lambda pipeline, *_: ImageRewardScore(pipeline.device),
    ClipIqaScore.name: lambda pipeline, *_: ClipIqaScore(pipeline.device),
    "likelihood": _likelihood,
    "shapes": _shapes,
}
REWARDS = tuple(_BUILDERS)


def build_reward(
    name: str, pipeline: EditingPipeline, *, clip_model: str | None = None, clip_ckpt: str | None = None
) -> Reward:
    """Builds one of `REWARDS` on the pipeline's device.

    Args:
      clip_model, clip_ckpt: for "clip": open_clip's name, and the weights; the evaluations' by default.
    Raises:
      UserError: an unknown name, a package that is not installed, weights that are missing.
    """
    if name not in _BUILDERS:
        raise UserError(f"reward {name!r} is not known; use one of {', '.join(REWARDS)}")
    return _BUILDERS[name](pipeline, clip_model, clip_ckpt)
