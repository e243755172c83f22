"""Pictures with which the demo opens, and what to try on them.

The shipped editor does all of the first ones rightly: `tests/scripts/test_demo_work.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from autoregressive.editing.model_folders import EXAMPLES
from dataset.records.images import load_image
from dataset.shapes.edits import SETTINGS, random_scene
from dataset.shapes.scenes import OFFSET, Background, Scene, SceneObject, render
from runtime.errors import UserError
from runtime.texts import read_lines

DRAWINGS = "drawings.txt"
_SUFFIXES = (".png", ".jpg", ".webp")


@dataclass(frozen=True)
class ExampleEdit:
    """An instruction, and what makes its picture for a model of that many pixels a side."""

    words: str
    picture: Callable[[int], Image.Image]


@dataclass(frozen=True)
class OwnExamples:
    """What a folder of models has in `examples/`.

    Attributes:
      tries: in the order of their files.
      caption: of a picture to draw; "" for none.
    """

    tries: tuple[ExampleEdit, ...]
    caption: str = ""


@dataclass(frozen=True)
class Examples:
    """For models of the shapes set.

    Attributes:
      setting: of `dataset.shapes.edits.SETTINGS`, for random scenes.
    """

    setting: str
    scene: Scene
    instructions: tuple[str, ...]

    @property
    def tries(self) -> tuple[ExampleEdit, ...]:
        return tuple(ExampleEdit(words, self._picture) for words in self.instructions)

    @property
    def caption(self) -> str:
        return self.scene.caption()

    def random(self, side: int) -> tuple[Image.Image, str]:
        """A scene that no training has seen, of that many pixels a side, and its caption."""
        drawn = random_scene(np.random.default_rng(), SETTINGS[self.setting], held_out=True)
        return Image.fromarray(render(drawn, side)), drawn.caption()

    def words(self) -> set[str]:
        """All that a model must know."""
        text = " ".join([self.caption, *self.instructions])
        return set(text.replace(",", " ").split())

    def _picture(self, side: int) -> Image.Image:
        return Image.fromarray(render(self.scene, side))


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


def examples_for(vocabulary: Collection[str], folder: Path | None = None) -> Examples | OwnExamples | None:
    """What a model can be shown with; None where nothing is known.

    Args:
      vocabulary: all words that it knows, where these are few.
      folder: of the model. What it has in `examples/` goes first; then come the shapes, for models that know
        their words.
    Raises:
      UserError: an instruction of the folder without a picture.
    """
    own = None if folder is None else _read(folder / EXAMPLES)
    return own or next((one for one in (HARD, EASY) if one.words() <= set(vocabulary)), None)


def _read(folder: Path) -> OwnExamples | None:
    files = sorted(folder.glob("*.txt"))
    tries = [ExampleEdit(words, picture) for file in files if file.name != DRAWINGS
             for picture in [_picture_of(file)] for words in _lines(file)]  # fmt: skip
    captions = _lines(folder / DRAWINGS) if (folder / DRAWINGS).is_file() else []
    return OwnExamples(tuple(tries), "".join(captions[:1])) if tries or captions else None


def _picture_of(instructions: Path) -> Callable[[int], Image.Image]:
    """The picture beside a file of instructions, which has a size of its own."""
    pictures = [instructions.with_suffix(suffix) for suffix in _SUFFIXES]
    found = next((picture for picture in pictures if picture.is_file()), None)
    if found is None:
        raise UserError(f"{instructions}: no picture beside it; put {pictures[0].name} there")
    image = load_image(found)
    return lambda _: image


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in read_lines(file) if line.strip()]
