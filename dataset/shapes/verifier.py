"""The embedded data set, part 3: a verifier that reads pixels and says what stands where.

It works at 72 x 72 (24 pixels a place), to which other sizes are resampled. An object is found in three
steps: pixels far from the background's colour are foreground; the palette colour nearest to the foreground's
core is the object's colour; the foreground's opacity in that colour is compared with templates of every shape
and size. Only the pixels and the background's name are used, so that results of any method are judged alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from PIL import Image

from dataset.shapes.edits import Edit
from dataset.shapes.scenes import (
    BACKGROUNDS,
    COLORS,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    box_to_pixels,
    coverage,
    place_box,
)
from runtime.errors import UserError

_CELL = 24
_CANVAS = 3 * _CELL
_FOREGROUND_DISTANCE = 60.0  # RGB levels; textures stay within 35, palette colours are at least 100 away
_FOREIGN_DISTANCE = 70.0  # a pixel further than this from the line background - colour is neither
_LEAST_AREA = 14  # pixels; the smallest object, a small star, covers 36
# Opacity overlap below which a shape is not recognised, and by how much it must lead over every other shape.
# Blobs look most like circles, diamonds and squares; other image sizes and JPEG files spoil thin tips first.
# With 0.65 for all and no lead a fifth of random blobs passed as diamonds, and so did blurred crosses.
_LEAST_OVERLAP = {
    "circle": 0.93,
    "diamond": 0.9,
    "square": 0.88,
    "triangle": 0.82,
    "cross": 0.82,
    "star": 0.7,
}
_LEAST_LEAD = 0.03
_MAX_SHIFT = 4  # pixels between a template's middle and its place's; jitter moves objects as far
_SIZE_TOLERANCE = 0.05  # of a place; half the step from small to large
_PART = 8  # pixels; a place has nine parts, which are the cells of the project's small tokenizers
# Mean difference of a part's opacity from the template's. After the shipped tokenizer the worst part of a
# true object stays below 0.05 (99.98 % of 6,500); parts that two offsets draw differently differ by 0.13.
_SAME_PART = 0.05
_ALIKE_PART = 0.2  # cells that disagree spoil their neighbours' edges: the decoder sees across them


@dataclass(frozen=True)
class FoundObject:
    """What the pixels of one place show.

    Attributes:
      color: nearest palette colour, or None when the foreground has no single palette colour.
      shape: best template, or None when none fits.
      size: size of the best template.
      overlap: opacity overlap with the best template, in [0, 1].
      area: foreground pixels at 72 x 72.
    """

    color: str | None
    shape: str | None
    size: str
    overlap: float
    area: int

    def is_nearer_in_size_to(self, wanted: SceneObject, other: SceneObject) -> bool:
        """True if the measured size is nearer to the first object's than to the second's."""
        measured = SIZES[self.size]
        return abs(measured - SIZES[wanted.size]) < abs(measured - SIZES[other.size])

    def matches(self, thing: SceneObject) -> bool:
        """True if colour, shape and (within half a size class) size are the object's."""
        return self.color == thing.color and self.shape == thing.shape and self.has_size_of(thing)

    def has_size_of(self, thing: SceneObject) -> bool:
        """True if the size is the object's, within half a size class."""
        return abs(SIZES[self.size] - SIZES[thing.size]) < _SIZE_TOLERANCE


@dataclass(frozen=True)
class EditVerdict:
    """Whether an edit was done; None where the edit does not ask the question.

    An edit is done if it has passed and all else is unchanged; `passed` alone leaves damage out.

    Attributes:
      passed: everything the edit asks for is there, whatever happened elsewhere.
      color: the edited object (or the background) has the wanted colour.
      shape: the edited object has the wanted shape.
      size: the resized object, or the one that should fit its region, has the wanted size.
      removed: nothing stands at the place any more.
      others_unchanged: every other place holds what it should, and (unless edited) so does the background.
      cells_fit: each of the nine parts of the object's place looks like the object at one of its offsets.
      one_offset: all nine show it at one and the same offset; no caption names the offset.
    """

    passed: bool
    color: bool | None
    shape: bool | None
    size: bool | None
    removed: bool | None
    others_unchanged: bool
    cells_fit: bool | None = None
    one_offset: bool | None = None

    @property
    def passed_and_unchanged(self) -> bool:
        """The headline: the edit was done and did no damage."""
        return self.passed and self.others_unchanged


@dataclass(frozen=True)
class SceneVerdict:
    """How an image agrees with a scene; `color` and `shape` hold one answer an object, in its order.

    `passed` means that all objects have colour, shape and size right, no other place holds anything, and the
    background's colour is right.
    """

    passed: bool
    color: tuple[bool, ...]
    shape: tuple[bool, ...]
    nothing_else: bool
    background: bool


def _to_canvas(image: np.ndarray) -> np.ndarray:
    """Brings an image to (72, 72, 3) float32."""
    if image.ndim != 3 or image.shape[2] != 3 or image.shape[0] != image.shape[1] or image.dtype != np.uint8:
        raise UserError(
            f"the shapes verifier reads square (H, H, 3) uint8 images, not {image.shape} {image.dtype}"
        )
    if image.shape[0] != _CANVAS:
        # PIL's bilinear filter widens when it shrinks, so that downsampling does not alias.
        resized = Image.fromarray(image).resize((_CANVAS, _CANVAS), Image.Resampling.BILINEAR)
        image = np.asarray(resized)
    return image.astype(np.float32)


def _place_pixels(canvas: np.ndarray, place: str) -> np.ndarray:
    left, top, right, bottom = box_to_pixels(place_box(place), _CANVAS)
    return canvas[top:bottom, left:right]


def _sharpened(opacity: np.ndarray) -> np.ndarray:
    """Stretches the middle half of opacity to [0, 1]: texture below it and shading above it do not count."""
    return np.clip(2.0 * opacity - 0.5, 0.0, 1.0)


def _centroid(opacity: np.ndarray) -> np.ndarray:
    """(..., 24, 24) -> (..., 2): mean (x, y) in pixels."""
    steps = np.arange(_CELL) + 0.5
    weights = opacity.sum(axis=(-2, -1)) + 1e-6
    x = (opacity.sum(axis=-2) * steps).sum(axis=-1) / weights
    y = (opacity.sum(axis=-1) * steps).sum(axis=-1) / weights
    return np.stack([x, y], axis=-1)


def _softened(opacity: np.ndarray) -> np.ndarray:
    """Blurs by about one pixel (binomial weights 1 4 6 4 1), as a lossy tokenizer does."""
    weights = np.array([1, 4, 6, 4, 1], np.float32) / 16
    padded = np.pad(opacity, 2)
    rows = sum(w * padded[i : i + _CELL] for i, w in enumerate(weights))
    return sum(w * rows[:, i : i + _CELL] for i, w in enumerate(weights))


@lru_cache(maxsize=1)
def _templates() -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
    """Opacities (T, 24, 24), crisp and soft; their centroids (T, 2); the (shape, size) of each."""
    opacities, kinds = [], []
    shifts = [_CELL / 2 + shift for shift in range(-_MAX_SHIFT, _MAX_SHIFT + 1)]
    for shape, size, y, x in product(SHAPES, SIZES, shifts, shifts):
        drawn = coverage(shape, round(SIZES[size] * _CELL, 4), x, y, _CELL)
        opacities += [_sharpened(drawn), _sharpened(_softened(drawn))]
        kinds += [(shape, size)] * 2
    stacked = np.stack(opacities)
    return stacked, _centroid(stacked), kinds


def _nearest_name(palette: dict[str, tuple[int, int, int]], color: np.ndarray) -> tuple[str, float]:
    distances = {name: float(np.linalg.norm(color - value)) for name, value in palette.items()}
    name = min(distances, key=lambda key: distances[key])
    return name, distances[name]


def _opacity(pixels: np.ndarray, background: str, color: str) -> tuple[np.ndarray, np.ndarray]:
    """How much of a place's (24, 24, 3) pixels a colour covers, sharpened; and which are neither colour's."""
    behind = np.array(BACKGROUNDS[background], np.float32)
    direction = np.array(COLORS[color], np.float32) - behind
    opacity = (pixels - behind) @ direction / (direction @ direction)
    residual = np.linalg.norm(pixels - behind - opacity[..., None] * direction, axis=-1)
    foreground = np.linalg.norm(pixels - behind, axis=-1) > _FOREGROUND_DISTANCE
    foreign = foreground & ((residual > _FOREIGN_DISTANCE) | (opacity < 0))
    return _sharpened(np.where(foreign, 0.0, opacity)), foreign


def _parts_at_offsets(pixels: np.ndarray, background: str, thing: SceneObject) -> np.ndarray:
    """(offsets, 9) how far each part of a place is from `thing` at each of the offsets it may have.

    Offsets go as far as the object's own, in all four directions; without jitter there is one.
    """
    opacity, foreign = _opacity(pixels, background, thing.color)
    distances = []
    for dx, dy in product({-thing.dx, thing.dx}, {-thing.dy, thing.dy}):
        x, y = ((0.5 + shift) * _CELL for shift in (dx, dy))
        wanted = _sharpened(coverage(thing.shape, round(SIZES[thing.size] * _CELL, 4), x, y, _CELL))
        difference = np.abs(opacity - wanted) + foreign
        parts = difference.reshape(_CELL // _PART, _PART, _CELL // _PART, _PART).mean(axis=(1, 3))
        distances.append(parts.flatten())
    return np.stack(distances)


def _find(pixels: np.ndarray, background: str) -> FoundObject | None:
    """Looks at one place's (24, 24, 3) float32 pixels."""
    return _find_once(pixels.tobytes(), background)


@lru_cache(maxsize=512)  # an edit leaves most places bit for bit as they were: sources and results share them
def _find_once(content: bytes, background: str) -> FoundObject | None:
    pixels = np.frombuffer(content, np.float32).reshape(_CELL, _CELL, 3)
    distance = np.linalg.norm(pixels - np.array(BACKGROUNDS[background], np.float32), axis=-1)
    foreground = distance > _FOREGROUND_DISTANCE
    area = int(foreground.sum())
    if area < _LEAST_AREA:
        return None
    core = foreground & (distance >= 0.7 * np.percentile(distance[foreground], 90))
    color, mismatch = _nearest_name(COLORS, np.median(pixels[core], axis=0))

    opacity, foreign = _opacity(pixels, background, color)
    templates, centroids, kinds = _templates()
    shift = np.abs(centroids - _centroid(opacity)).max(axis=-1)
    (near,) = np.nonzero(shift <= max(1.2, shift.min()))
    common = np.minimum(templates[near], opacity).sum(axis=(1, 2))
    either = np.maximum(templates[near], opacity).sum(axis=(1, 2)) + foreign.sum()
    overlap = common / either
    best = int(overlap.argmax())
    shape, size = kinds[near[best]]
    rival = max((o for o, i in zip(overlap, near, strict=True) if kinds[i][0] != shape), default=0.0)
    recognised = overlap[best] >= _LEAST_OVERLAP[shape] and overlap[best] - rival >= _LEAST_LEAD
    return FoundObject(
        color=color if mismatch <= _FOREIGN_DISTANCE else None,
        shape=shape if recognised else None,
        size=size,
        overlap=float(overlap[best]),
        area=area,
    )


def inspect_place(image: np.ndarray, place: str, background: str) -> FoundObject | None:
    """Says what stands at a place.

    Args:
      image: (H, H, 3) uint8.
      place: one of `PLACES`.
      background: colour name behind the objects.
    Returns:
      The object, or None where only background is seen.
    """
    return _find(_place_pixels(_to_canvas(image), place), background)


def background_color(image: np.ndarray, scene: Scene) -> str | None:
    """Names the background's colour from the pixels of the places that the scene leaves empty.

    Returns:
      The nearest name, or None when the colour is far from all of them.
    """
    canvas = _to_canvas(image)
    empty = [place for place in PLACES if scene.at(place) is None]
    pixels = np.concatenate([_place_pixels(canvas, place).reshape(-1, 3) for place in empty])
    name, mismatch = _nearest_name(BACKGROUNDS, np.median(pixels, axis=0))
    return name if mismatch <= _FOREGROUND_DISTANCE / 2 else None


def _place_is_right(canvas: np.ndarray, place: str, scene: Scene) -> bool:
    found = _find(_place_pixels(canvas, place), scene.background.color)
    expected = scene.at(place)
    return found is None if expected is None else found is not None and found.matches(expected)


def verify_edit(image: np.ndarray, before: Scene, after: Scene, edit: Edit) -> EditVerdict:
    """Says from the pixels alone whether an edit was done, and whether all else stayed.

    Recolour, reshape, replace, add: colour and shape of the edited object; resize, and adds whose region
    alone tells the size: its size too; remove: nothing left; background: its colour. An unchanged source
    never passes.

    Args:
      image: (H, H, 3) uint8, the result to judge.
      before: the scene that was edited.
      after: the scene to reach.
      edit: what was asked for.
    """
    canvas = _to_canvas(image)
    background_right = background_color(image, after) == after.background.color
    others = all(_place_is_right(canvas, place, after) for place in PLACES if place != edit.place)
    if edit.place is None:
        return EditVerdict(background_right, background_right, None, None, None, others)
    others = others and background_right
    found = _find(_place_pixels(canvas, edit.place), after.background.color)
    wanted = after.at(edit.place)
    if wanted is None:
        return EditVerdict(found is None, None, None, None, found is None, others)
    color = found is not None and found.color == wanted.color
    shape = found is not None and found.shape == wanted.shape
    size = None
    if edit.kind == "resize":
        size = found is not None and found.is_nearer_in_size_to(wanted, before.at(edit.place))
    if edit.kind == "add_fitting":
        size = found is not None and found.has_size_of(wanted)
    distances = _parts_at_offsets(_place_pixels(canvas, edit.place), after.background.color, wanted)
    return EditVerdict(
        passed=color and shape and size is not False,
        color=color,
        shape=shape,
        size=size,
        removed=None,
        others_unchanged=others,
        cells_fit=bool((distances.min(axis=0) <= _ALIKE_PART).all()),
        one_offset=bool((distances.max(axis=1) <= _SAME_PART).any()),
    )


def verify_scene(image: np.ndarray, scene: Scene) -> SceneVerdict:
    """Says whether an image shows a scene (text to image).

    Args:
      image: (H, H, 3) uint8.
      scene: what was asked for.
    """
    canvas = _to_canvas(image)
    found = [_find(_place_pixels(canvas, t.place), scene.background.color) for t in scene.objects]
    pairs = list(zip(found, scene.objects, strict=True))
    empty = [place for place in PLACES if scene.at(place) is None]
    nothing_else = all(_place_is_right(canvas, place, scene) for place in empty)
    background = background_color(image, scene) == scene.background.color
    complete = all(seen is not None and seen.matches(wanted) for seen, wanted in pairs)
    return SceneVerdict(
        passed=complete and nothing_else and background,
        color=tuple(seen is not None and seen.color == wanted.color for seen, wanted in pairs),
        shape=tuple(seen is not None and seen.shape == wanted.shape for seen, wanted in pairs),
        nothing_else=nothing_else,
        background=background,
    )
