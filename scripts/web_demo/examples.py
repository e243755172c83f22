"""Scenes with which the demo opens, and what to try on them.

The shipped editor does all of the first ones rightly: `tests/scripts/test_demo_work.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dataset.shapes.scenes import OFFSET, Background, Scene, SceneObject


@dataclass(frozen=True)
class Examples:
    """For models of the shapes set.

    Attributes:
      setting: of `dataset.shapes.edits.SETTINGS`, for random scenes.
    """

    setting: str
    scene: Scene
    instructions: tuple[str, ...]

    def words(self) -> set[str]:
        """All that a model must know."""
        text = " ".join([self.scene.caption(), *self.instructions])
        return set(text.replace(",", " ").split())


HARD = Examples(
    "hard",
    Scene(
        (
            SceneObject("circle", "red", "large", "top left", OFFSET, OFFSET),
            SceneObject("star", "blue", "large", "center", -OFFSET, OFFSET),
            SceneObject("square", "green", "small", "bottom right", -OFFSET, -OFFSET),
        ),
        Background("beige", "speckled", seed=3),
    ),
    (
        "make the large red circle purple",
        "turn the large blue star into a triangle",
        "remove the small green square",
        "add a small yellow diamond at the top right",
        "make the small green square large",
    ),
)
EASY = Examples(
    "easy",
    Scene(
        (
            SceneObject("circle", "red", "regular", "top left"),
            SceneObject("star", "blue", "regular", "center"),
            SceneObject("square", "green", "regular", "bottom right"),
        ),
        Background("beige"),
    ),
    (
        "make the red circle purple",
        "turn the blue star into a triangle",
        "remove the green square",
        "add a yellow diamond at the top right",
        "paint the blue star orange",
    ),
)


def examples_for(vocabulary: Collection[str]) -> Examples | None:
    """What a model that knows these words can be shown with; None for one of other things than shapes."""
    return next((one for one in (HARD, EASY) if one.words() <= set(vocabulary)), None)
