"""The shapes verifier as a reward of edits: is it done, and is all else unchanged?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autoregressive.scaling.choices import EDIT_REWARDS
from autoregressive.scaling.reward import Reward, RewardCase
from dataset.shapes.captions import parse_edit
from dataset.shapes.edits import EditExample
from dataset.shapes.verifier import verify_edit
from runtime.errors import UserError


class ShapesEditReward(Reward):
    """1 where the verifier says yes, else 0."""

    highest = 1.0

    def __init__(self, field: str = "passed_and_unchanged") -> None:
        """
        Args:
          field: of `EditVerdict`, which question is asked.
        """
        self.name = next(name for name, asked in EDIT_REWARDS.items() if asked == field)
        self._field = field

    def score(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        raise UserError(
            f"the reward {self.name!r} judges edits and needs the scene before them; take 'shapes', which "
            "judges what an image shows"
        )

    def judge(self, images: Sequence[Image.Image], cases: Sequence[RewardCase]) -> Tensor:
        answers = [
            self._answer(np.asarray(image.convert("RGB")), self._example(case))
            for image, case in zip(images, cases, strict=True)
        ]
        return torch.tensor(answers, dtype=torch.float32)

    def _answer(self, image: np.ndarray, example: EditExample) -> bool:
        return getattr(verify_edit(image, example.before, example.after, example.edit), self._field)

    def _example(self, case: RewardCase) -> EditExample:
        if case.source_caption is None:
            raise UserError(
                f"the reward {self.name!r} needs an input_caption for each edit; {case.caption!r} has none"
            )
        return parse_edit(case.source_caption, case.caption, case.instruction)
