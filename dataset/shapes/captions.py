"""The embedded data set, part 5: captions read back into scenes."""

from __future__ import annotations

import re

from dataset.shapes.scenes import (
    BACKGROUND_KINDS,
    BACKGROUNDS,
    COLORS,
    OFFSET,
    PLACES,
    SHAPES,
    SIZES,
    Background,
    Scene,
    SceneObject,
)
from runtime.errors import UserError

_OBJECT = re.compile(
    rf"an? (?:({'|'.join(SIZES)}) )?({'|'.join(COLORS)}) ({'|'.join(SHAPES)}) at the ({'|'.join(PLACES)})"
    r"(?: shifted(?: (up|down))?(?: (left|right))?)?"
)
_SHIFTS = {None: 0.0, "up": -OFFSET, "down": OFFSET, "left": -OFFSET, "right": OFFSET}
_BACKGROUND = re.compile(rf"(?:({'|'.join(BACKGROUND_KINDS)}) )?({'|'.join(BACKGROUNDS)}) background")


def parse_caption(text: str) -> Scene:
    """Reads what `Scene.caption` writes; texture seeds, which no caption tells, and unnamed offsets are 0.

    Args:
      text: for example "a red circle at the top left, striped gray background".
    Raises:
      UserError: another kind of text, two objects in one place, or one in every place.
    """
    *things, behind = text.strip().split(", ")
    objects = [_OBJECT.fullmatch(thing) for thing in things]
    background = _BACKGROUND.fullmatch(behind)
    if background is None or None in objects:
        raise UserError(
            f"{text!r} is no caption of the shapes set; it should read like "
            "'a red circle at the top left, gray background'"
        )
    scene_objects = tuple(
        SceneObject(shape, color, size or "regular", place, _SHIFTS[across], _SHIFTS[along])
        for size, color, shape, place, along, across in (found.groups() for found in objects)
    )
    if len({thing.place for thing in scene_objects}) < len(scene_objects):
        raise UserError(f"{text!r} puts two objects in one place; name each place once")
    if len(scene_objects) == len(PLACES):
        raise UserError(f"{text!r} leaves no place empty, so that no background can be seen; name fewer")
    return Scene(scene_objects, Background(background[2], background[1] or "plain"))
