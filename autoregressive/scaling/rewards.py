"""The rewards by name; each is imported when it is asked for, as some are slow to import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.scaling.choices import EDIT_REWARDS, ENTRY_POINT
from autoregressive.scaling.own_reward import own_reward
from autoregressive.scaling.packaged_rewards import ClipIqaScore, ImageRewardScore
from autoregressive.scaling.reward import Reward
from runtime.errors import require_known


@dataclass(frozen=True)
class JudgesOn:
    """Stands for a pipeline with rewards that need its device alone: all but "likelihood"."""

    device: torch.device


def _clip(pipeline: EditingPipeline | JudgesOn, clip_model: str | None, clip_ckpt: str | None) -> Reward:
    from autoregressive.scaling.clip_reward import ClipReward

    return ClipReward.load(clip_model, clip_ckpt, pipeline.device)


def _likelihood(pipeline: EditingPipeline, *_: str | None) -> Reward:
    from autoregressive.scaling.likelihood import LikelihoodReward

    return LikelihoodReward(pipeline)


def _shapes(*_: Any) -> Reward:
    from autoregressive.scaling.shapes_reward import ShapesReward

    return ShapesReward()


def _shapes_edit(field: str) -> Callable[..., Reward]:
    def build(*_: Any) -> Reward:
        from autoregressive.scaling.shapes_edit_reward import ShapesEditReward

        return ShapesEditReward(field)

    return build


_BUILDERS: dict[str, Callable[..., Reward]] = {
    "clip": _clip,
    "image_reward": lambda pipeline, *_: ImageRewardScore(pipeline.device),
    "clip_iqa": lambda pipeline, *_: ClipIqaScore(pipeline.device),
    "likelihood": _likelihood,
    "shapes": _shapes,
    **{name: _shapes_edit(field) for name, field in EDIT_REWARDS.items()},
}


def build_reward(
    name: str,
    pipeline: EditingPipeline | JudgesOn,
    *,
    clip_model: str | None = None,
    clip_ckpt: str | None = None,
) -> Reward:
    """Builds one of `REWARDS` or `EDIT_REWARDS` on the pipeline's device, or one of the user's own.

    Args:
      name: or "module:function", see `own_reward`.
      clip_model, clip_ckpt: for "clip": open_clip's name, and the weights; the evaluations' by default.
    Raises:
      UserError: an unknown name, a package that is not installed, weights that are missing.
    """
    if ENTRY_POINT in name:
        return own_reward(name)
    require_known("reward", name, _BUILDERS)
    return _BUILDERS[name](pipeline, clip_model, clip_ckpt)
