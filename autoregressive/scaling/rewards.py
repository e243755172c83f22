"""The rewards by name; each is imported when it is asked for, as some are slow to import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.scaling.choices import REWARDS
from autoregressive.scaling.packaged_rewards import ClipIqaScore, ImageRewardScore
from autoregressive.scaling.reward import Reward
from runtime.errors import UserError


def _clip(pipeline: EditingPipeline, clip_model: str | None, clip_ckpt: str | None) -> Reward:
    from autoregressive.scaling.clip_reward import ClipReward

    return ClipReward.load(clip_model, clip_ckpt, pipeline.device)


def _likelihood(pipeline: EditingPipeline, *_: str | None) -> Reward:
    from autoregressive.scaling.likelihood import LikelihoodReward

    return LikelihoodReward(pipeline)


def _shapes(*_: Any) -> Reward:
    from autoregressive.scaling.shapes_reward import ShapesReward

    return ShapesReward()


_BUILDERS: dict[str, Callable[..., Reward]] = {
    "clip": _clip,
    "image_reward": lambda pipeline, *_: ImageRewardScore(pipeline.device),
    "clip_iqa": lambda pipeline, *_: ClipIqaScore(pipeline.device),
    "likelihood": _likelihood,
    "shapes": _shapes,
}


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
