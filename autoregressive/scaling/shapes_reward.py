"""The shapes verifier as a reward: captions of the shapes set say what must be seen where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autoregressive.scaling.reward import Reward
from dataset.shapes.captions import parse_caption
from dataset.shapes.scenes import PLACES, Scene, SceneObject
from dataset.shapes.verifier import FoundObject, background_color, inspect_place


@dataclass(frozen=True)
class SceneAnswers:
    """What the verifier sees.

    Attributes:
      objects: place -> (colour, shape and size are right).
      empty: place -> nothing stands where nothing should.
      background: its colour is right.
    """

    objects: dict[str, tuple[bool, bool, bool]]
    empty: dict[str, bool]
    background: bool


def answer(image: np.ndarray, scene: Scene) -> SceneAnswers:
    """Looks at every place of a (H, H, 3) uint8 image."""
    found = {place: inspect_place(image, place, scene.background.color) for place in PLACES}
    return SceneAnswers(
        objects={thing.place: _compare(found[thing.place], thing) for thing in scene.objects},
        empty={place: found[place] is None for place in PLACES if scene.at(place) is None},
        background=background_color(image, scene) == scene.background.color,
    )


class ShapesReward(Reward):
    """The share of correct answers, in [0, 1]; 1 is what `verify_scene` lets pass.

    Three questions an object (colour, shape, size), one about the background, and one about all the empty
    places, which is answered by the share of them that are empty.
    """

    name = "shapes"
    highest = 1.0

    def check(self, texts: Sequence[str]) -> None:
        for text in texts:
            parse_caption(text)

    def score(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        return torch.tensor([_share(answers) for answers in self._answers(images, texts)])

    def token_scores(self, images: Sequence[Image.Image], texts: Sequence[str], grid: int) -> Tensor:
        """(B, N) in [0, 1]: the share of correct answers about the place in which a cell's middle lies."""
        sides = ((torch.arange(grid) + 0.5) * 3 / grid).long()
        place_of_cell = (sides[:, None] * 3 + sides).flatten()
        by_place = [
            [_share_of_place(answers, place) for place in PLACES] for answers in self._answers(images, texts)
        ]
        return torch.tensor(by_place)[:, place_of_cell]

    def _answers(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[SceneAnswers]:
        return [
            answer(np.asarray(image.convert("RGB")), parse_caption(text))
            for image, text in zip(images, texts, strict=True)
        ]


def _compare(found: FoundObject | None, wanted: SceneObject) -> tuple[bool, bool, bool]:
    if found is None:
        return False, False, False
    alike = replace(wanted, shape=found.shape, color=found.color)  # differs in size alone, if at all
    return found.color == wanted.color, found.shape == wanted.shape, found.matches(alike)


def _share(answers: SceneAnswers) -> float:
    values = [float(value) for three in answers.objects.values() for value in three]
    values += [sum(answers.empty.values()) / len(answers.empty), float(answers.background)]
    return sum(values) / len(values)


def _share_of_place(answers: SceneAnswers, place: str) -> float:
    asked = answers.objects.get(place) or (answers.empty[place], answers.background)
    return sum(asked) / len(asked)
