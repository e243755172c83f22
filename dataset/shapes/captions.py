"""The embedded data set, part 5: captions read back into scenes and edits."""

from __future__ import annotations

import re

from dataset.shapes.edits import Edit, EditExample
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
_CHANGES = {"resize": "size", "recolor": "color", "reshape": "shape"}
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


def parse_edit(source_caption: str, caption: str, instruction: str | None = None) -> EditExample:
    """The edit between two captions, as the verifier reads it: without region, offsets and looks.

    Args:
      instruction: tells an added object whose size it names from one that has to fit its region.
    Raises:
      UserError: a text that is no caption, or captions that differ in nothing or in several places.
    """
    before, after = parse_caption(source_caption), parse_caption(caption)
    places = [place for place in PLACES if _look(before.at(place)) != _look(after.at(place))]
    recolored = before.background.color != after.background.color
    if len(places) + recolored != 1:
        raise UserError(
            f"{source_caption!r} and {caption!r} differ in {len(places) + recolored} things; an edit of the "
            "shapes set changes one"
        )
    place = None if recolored else places[0]
    words = instruction or ""
    kind = "background" if place is None else _kind(before.at(place), after.at(place), words)
    return EditExample(before, after, Edit(kind, place, None, words, caption))


def _look(thing: SceneObject | None) -> tuple[str, str, str] | None:
    """What captions say of an object, but for its offset."""
    return None if thing is None else (thing.size, thing.color, thing.shape)


def _kind(old: SceneObject | None, new: SceneObject | None, instruction: str) -> str:
    if new is None:
        return "remove"
    if old is None:
        names_size = new.size == "regular" or not instruction or new.size in instruction.split()
        return "add" if names_size else "add_fitting"
    changed = [kind for kind, field in _CHANGES.items() if getattr(old, field) != getattr(new, field)]
    return changed[0] if len(changed) == 1 else "replace"
