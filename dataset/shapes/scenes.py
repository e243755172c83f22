"""The embedded data set, part 1: scenes of coloured shapes, their captions and their pixels.

A scene is 1 to 3 objects on a background. The canvas is divided into 3 x 3 places; an object lies inside the
place it is named after, so that words, regions and pixels agree at any resolution.

Lengths: an object's radius and offset are fractions of a place's side (a third of the image).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

PLACES = (
    "top left",
    "top",
    "top right",
    "left",
    "center",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
SIZES = {"small": 0.23, "regular": 0.4, "large": 1 / 3}
COLORS = {
    "red": (214, 40, 40),
    "green": (40, 150, 60),
    "blue": (35, 85, 205),
    "yellow": (255, 220, 0),
    "purple": (130, 45, 165),
    "orange": (240, 125, 20),
    "black": (25, 25, 30),
}
BACKGROUNDS = {
    "gray": (190, 190, 190),
    "white": (242, 242, 242),
    "beige": (225, 208, 160),
    "mint": (185, 228, 205),
    "pink": (250, 190, 205),
    "lavender": (205, 200, 238),
}
BACKGROUND_KINDS = ("plain", "gradient", "striped", "speckled")

OFFSET = 1 / 6
"""Of the hard setting: objects stand this fraction of a place's side from its middle, both ways."""
_GRID = 3
_SUPERSAMPLING = 4
_HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class SceneObject:
    """One shape; `dx`, `dy` move it from the middle of its place. Size "regular" goes without saying."""

    shape: str
    color: str
    size: str
    place: str
    dx: float = 0.0
    dy: float = 0.0

    @property
    def name(self) -> str:
        """For example "red circle" or "small red circle"."""
        size = "" if self.size == "regular" else f"{self.size} "
        return f"{size}{self.color} {self.shape}"

    @property
    def center(self) -> tuple[float, float]:
        """(x, y) as fractions of the image's side."""
        row, column = divmod(PLACES.index(self.place), _GRID)
        return (column + 0.5 + self.dx) / _GRID, (row + 0.5 + self.dy) / _GRID

    def where(self, offsets: bool = False) -> str:
        """For example "at the top left", or with `offsets` "at the top left shifted up right".

        What lies in the middle of its place, or straight above it, is said to be shifted no way, or up.
        """
        words = [at_place(self.place)]
        if offsets and (self.dx or self.dy):
            words += ["shifted", *["up" if self.dy < 0 else "down"] * bool(self.dy)]
            words += ["left" if self.dx < 0 else "right"] * bool(self.dx)
        return " ".join(words)

    @property
    def radius(self) -> float:
        """Half the side of the bounding square, as a fraction of the image's side."""
        return SIZES[self.size] / _GRID


@dataclass(frozen=True)
class Background:
    """What lies behind the objects; `seed` fixes the direction and grain of gradients and textures."""

    color: str
    kind: str = "plain"
    seed: int = 0

    @property
    def name(self) -> str:
        """For example "gray background" or "striped gray background"."""
        return f"{self.color} background" if self.kind == "plain" else f"{self.kind} {self.color} background"


@dataclass(frozen=True)
class Scene:
    """Objects in reading order of their places, at most one a place, and a background."""

    objects: tuple[SceneObject, ...]
    background: Background

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.objects, key=lambda thing: PLACES.index(thing.place)))
        object.__setattr__(self, "objects", ordered)

    def at(self, place: str | None) -> SceneObject | None:
        """The object at `place`, or None."""
        return next((thing for thing in self.objects if thing.place == place), None)

    def caption(self, offsets: bool = False) -> str:
        """The global description: every object with its place, then the background.

        Args:
          offsets: say too where in its place each object stands.
        """
        parts = [f"{with_article(thing.name)} {thing.where(offsets)}" for thing in self.objects]
        return ", ".join([*parts, self.background.name])

    def held_out(self) -> bool:
        """True for the fixed fifth of all scenes that training never shows.

        Decided by a hash of what the caption says, so that offsets and texture seeds cannot carry a scene
        from one side to the other.
        """
        digest = hashlib.blake2b(self.caption().encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64 < _HELD_OUT_SHARE

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"objects": [asdict(thing) for thing in self.objects]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scene:
        objects = tuple(SceneObject(**thing) for thing in values["objects"])
        return cls(objects, Background(**values["background"]))


def with_article(name: str) -> str:
    """Puts "a" or "an" in front of a name."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def at_place(place: str) -> str:
    """For example "at the top left"."""
    return f"at the {place}"


def place_box(place: str) -> tuple[float, float, float, float]:
    """The place's (left, top, right, bottom) as fractions of the image's side."""
    row, column = divmod(PLACES.index(place), _GRID)
    return column / _GRID, row / _GRID, (column + 1) / _GRID, (row + 1) / _GRID


def box_to_pixels(box: tuple[float, float, float, float], image_size: int) -> tuple[int, int, int, int]:
    """The smallest pixel box (left, top, right, bottom; ends excluded) that covers `box`."""
    slack = 1e-6  # a third of 72 must stay 24 whatever floating point makes of it
    left, top = (math.floor(v * image_size + slack) for v in box[:2])
    right, bottom = (math.ceil(v * image_size - slack) for v in box[2:])
    return left, top, right, bottom


# Each test takes coordinates in units of the radius, y downwards, and says which points are inside.
def _in_circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x * x + y * y <= 1.0


def _in_square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) <= 0.8


def _in_triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (y <= 0.85) & (np.abs(x) <= (y + 1.0) / 1.85)


def _in_diamond(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(x) + np.abs(y) <= 1.0


def _in_cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.maximum(np.abs(x), np.abs(y)) <= 1.0) & (np.minimum(np.abs(x), np.abs(y)) <= 0.3)


def _in_star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points: by symmetry only the edge from a tip (angle 0) to its inner corner (angle 36 degrees)."""
    y = y - 0.05
    wedge = 2 * math.pi / 5
    angle = np.mod(np.arctan2(x, -y), wedge)
    angle = np.minimum(angle, wedge - angle)
    radius = np.hypot(x, y)
    corner_x, corner_y = 0.42 * math.cos(wedge / 2), 0.42 * math.sin(wedge / 2)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    return (1.05 - along) * corner_y >= across * (1.05 - corner_x)


_INSIDE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _in_circle,
    "square": _in_square,
    "triangle": _in_triangle,
    "diamond": _in_diamond,
    "cross": _in_cross,
    "star": _in_star,
}
SHAPES = tuple(_INSIDE)


@lru_cache(maxsize=4096)
def coverage(shape: str, radius: float, x: float, y: float, size: int) -> np.ndarray:
    """How much of each pixel of a square patch a shape covers.

    Args:
      shape: one of `SHAPES`.
      radius: in pixels.
      x, y: the shape's middle, in pixels from the patch's top left corner.
      size: side of the patch in pixels.
    Returns:
      (size, size) float32 in [0, 1], shared between calls: do not write into it.
    """
    steps = (np.arange(size * _SUPERSAMPLING) + 0.5) / _SUPERSAMPLING
    inside = _INSIDE[shape]((steps[None, :] - x) / radius, (steps[:, None] - y) / radius)
    blocks = inside.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING)
    covered = blocks.mean(axis=(1, 3), dtype=np.float32)
    covered.setflags(write=False)
    return covered


def _relief(background: Background, image_size: int) -> np.ndarray:
    """Relative brightness change of a gradient or texture, (image_size, image_size), within about 0.08."""
    rng = np.random.default_rng(background.seed)
    steps = (np.arange(image_size) + 0.5) / image_size * 2 - 1
    if background.kind == "speckled":
        knots = rng.uniform(-0.08, 0.08, size=(13, 13))
        positions = (steps + 1) / 2 * 12
        low = np.minimum(positions.astype(int), 11)
        share = positions - low
        rows = knots[low] * (1 - share)[:, None] + knots[low + 1] * share[:, None]
        return rows[:, low] * (1 - share) + rows[:, low + 1] * share
    angle = rng.uniform(0, 2 * math.pi)
    ramp = (math.cos(angle) * steps[None, :] + math.sin(angle) * steps[:, None]) / math.sqrt(2)
    if background.kind == "gradient":
        return 0.08 * ramp
    return 0.05 * np.sin(rng.uniform(6, 10) * math.pi * ramp)


def _draw_background(background: Background, image_size: int) -> np.ndarray:
    canvas = np.empty((image_size, image_size, 3), np.float32)
    canvas[:] = BACKGROUNDS[background.color]
    if background.kind != "plain":
        canvas *= 1 + _relief(background, image_size)[..., None]
    return np.clip(canvas, 0, 255, out=canvas)


def render(scene: Scene, image_size: int) -> np.ndarray:
    """Draws a scene, anti-aliased.

    Returns:
      (image_size, image_size, 3) uint8; the same for the same scene on every machine.
    """
    canvas = _draw_background(scene.background, image_size)
    for thing in scene.objects:
        x, y = (v * image_size for v in thing.center)
        radius = thing.radius * image_size
        left, top = math.floor(x - radius) - 1, math.floor(y - radius) - 1
        size = math.ceil(2 * radius) + 3
        # Rounded so that equal objects in different places share one cached patch.
        covered = coverage(thing.shape, round(radius, 4), round(x - left, 4), round(y - top, 4), size)
        rows = slice(max(top, 0), min(top + size, image_size))
        columns = slice(max(left, 0), min(left + size, image_size))
        share = covered[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left, None]
        patch = canvas[rows, columns]
        patch += share * (np.array(COLORS[thing.color], np.float32) - patch)
    return (canvas + 0.5).astype(np.uint8)
