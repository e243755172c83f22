"""What judges an image: one small interface.

reward = build_reward("clip", pipeline)                       # of `autoregressive.scaling.rewards`
reward.score(images, ["a red circle", "a blue star"])         # (2,), higher is better
reward.token_scores(images, texts, grid=16)                   # (2, 256), low where the image fits worst
reward.judge(images, cases)                                   # (2,), of edits too: `RewardCase`
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from runtime.errors import UserError


@dataclass(frozen=True)
class RewardCase:
    """What was asked for: all that a reward may compare an image with.

    Attributes:
      caption: what the image should show.
      instruction: what an edit was told to do, where there was one.
      source_caption: what the image before the edit shows.
      source: the image before the edit.
    """

    caption: str
    instruction: str | None = None
    source_caption: str | None = None
    source: Image.Image | None = None


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

    def judge(self, images: Sequence[Image.Image], cases: Sequence[RewardCase]) -> Tensor:
        """(B,) float32 scores as `score`; a reward that knows what an edit is reads more than the caption."""
        return self.score(images, [case.caption for case in cases])

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
