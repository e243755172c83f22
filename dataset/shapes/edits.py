"""The embedded data set, part 2: settings, random scenes, edits with instruction, region and target.

Every example is a function of (settings, seed); nothing is remembered between calls.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

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
    at_place,
    box_to_pixels,
    place_box,
    with_article,
)
from runtime.errors import UserError

NUM_LOOKS = 4
"""Directions of gradients and stripes, and grains of speckles: noise that never repeats only costs codes."""

EDIT_KINDS = ("recolor", "reshape", "add", "remove", "resize", "replace", "background", "add_fitting")
MOST_OBJECTS = len(PLACES) - 1
ADDS = ("add", "add_fitting")
"""The second names no size: the object has that which fits its region."""

_INSTRUCTIONS = {
    "recolor": (
        "change the {old} to {color}",
        "make the {old} {color}",
        "paint the {old} {color}",
    ),
    "reshape": (
        "turn the {old} into {shape}",
        "change the {old} into {shape}",
        "make the {old} {shape}",
    ),
    "add": ("add {new} {where}", "put {new} {where}", "draw {new} {where}"),
    "add_fitting": ("add {unsized} {where}", "put {unsized} {where}", "draw {unsized} {where}"),
    "remove": ("remove the {old}", "delete the {old}", "erase the {old}"),
    "resize": ("make the {old} {size}", "change the {old} to {size}"),
    "replace": ("replace the {old} with {new}", "swap the {old} for {new}"),
    "background": ("change the background to {background}", "make the background {background}"),
}
_ATTEMPTS = 200  # a fifth of all draws of the held-out side fit, so that most edits need a few
_PADDING = 1 / 36  # of the image's side around an edited object: 2 pixels at 72
# Side of the region of an `add_fitting`, in sides of a place: two cells of 8 px, or three, at 72 px.
_FITTING_BOX = {"small": 2 / 3, "large": 1.0}


@dataclass(frozen=True)
class ShapesConfig:
    """What scenes and edits are drawn from.

    Attributes:
      image_size: side of the images in pixels.
      jitter: objects lie this fraction of a place's side left or right of its middle, and as far above or
        below it; 0 also makes an edit's region the whole place instead of a padded bounding box.
      backgrounds: subset of `BACKGROUND_KINDS`.
      edits: of `EDIT_KINDS`; one that is named twice comes twice as often.
      sizes: subset of `SIZES`.
      min_objects, max_objects: how many objects scenes start with; an edit may leave one fewer.
      name_offsets: captions say where in its place each object stands, instructions where an added one does.
    """

    image_size: int = 72
    jitter: float = 0.0
    backgrounds: tuple[str, ...] = ("plain",)
    edits: tuple[str, ...] = ("recolor", "reshape", "add", "remove")
    sizes: tuple[str, ...] = ("regular",)
    min_objects: int = 1
    max_objects: int = 3
    name_offsets: bool = False

    def __post_init__(self) -> None:
        for field, allowed in (("backgrounds", BACKGROUND_KINDS), ("edits", EDIT_KINDS), ("sizes", SIZES)):
            chosen = getattr(self, field)
            if not chosen or not set(chosen) <= set(allowed):
                raise UserError(f"shapes {field}={chosen}: choose one or more of {tuple(allowed)}")
        if set(self.edits) == {"remove"} or set(self.edits) <= set(ADDS):
            raise UserError(f"shapes edits={self.edits}: impossible in some scenes; choose another kind too")
        if not 24 <= self.image_size <= 4096:
            raise UserError(f"shapes image_size={self.image_size}: choose 24 to 4096 pixels")
        if not 2 <= self.max_objects <= MOST_OBJECTS:
            raise UserError(
                f"shapes max_objects={self.max_objects}: choose 2 to {MOST_OBJECTS}, so that add can undo "
                "remove and the background is seen"
            )
        if not 1 <= self.min_objects <= self.max_objects:
            raise UserError(f"shapes min_objects={self.min_objects}: choose 1 to {self.max_objects}")
        room = 0.5 - max(SIZES[size] for size in self.sizes)
        if not 0 <= self.jitter <= room:
            raise UserError(
                f"shapes jitter={self.jitter}: choose 0 to {room:.2f}, so that objects of sizes {self.sizes}"
                " stay inside their places"
            )
        if "add_fitting" in self.edits and not set(self.sizes) <= set(_FITTING_BOX):
            raise UserError(
                f"shapes edits hold add_fitting, but sizes={self.sizes}: its boxes are for "
                f"{' and '.join(_FITTING_BOX)}"
            )
        if "resize" in self.edits and len(self.sizes) < 2:
            raise UserError(f"shapes edits hold resize, but sizes={self.sizes}: give two sizes")

    def caption(self, scene: Scene) -> str:
        """What these settings say of a scene."""
        return scene.caption(self.name_offsets)


SETTINGS = {
    "easy": ShapesConfig(),
    "hard": ShapesConfig(
        jitter=OFFSET, backgrounds=BACKGROUND_KINDS, edits=EDIT_KINDS[:7], sizes=("small", "large")
    ),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "named_offsets": {"name_offsets": True},
    "no_offsets": {"jitter": 0.0},
    "crowded": {"min_objects": 6, "max_objects": 8},
    "fitting_adds": {"edits": ("add_fitting", "add_fitting", "add_fitting", "remove")},
}
"""What each variant changes in the hard setting."""


@dataclass(frozen=True)
class Edit:
    """One change; `place` and `box` (left, top, right, bottom in [0, 1]) are None when it is everywhere."""

    kind: str
    place: str | None
    box: tuple[float, float, float, float] | None
    instruction: str
    local_description: str

    @property
    def is_global(self) -> bool:
        """Whether all of the picture may change."""
        return self.box is None

    def region(self, image_size: int) -> np.ndarray:
        """(image_size, image_size) bool: the pixels the edit may change; all that change are among them."""
        region = np.zeros((image_size, image_size), bool)
        left, top, right, bottom = box_to_pixels(self.box or (0, 0, 1, 1), image_size)
        region[top:bottom, left:right] = True
        return region


@dataclass(frozen=True)
class EditExample:
    """A source scene, the edit, and the scene it must lead to."""

    before: Scene
    after: Scene
    edit: Edit

    def key(self) -> tuple[str, str]:
        """Equal for edits that show the same pair of scenes, up to offsets and texture seeds."""
        return self.before.caption(), self.after.caption()

    def to_dict(self) -> dict[str, Any]:
        return {"before": self.before.to_dict(), "after": self.after.to_dict(), "edit": asdict(self.edit)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EditExample:
        box = values["edit"]["box"]
        edit = Edit(**values["edit"] | {"box": None if box is None else tuple(box)})
        return cls(Scene.from_dict(values["before"]), Scene.from_dict(values["after"]), edit)


def _pick(rng: np.random.Generator, choices: Any, other_than: str | None = None) -> str:
    allowed = [choice for choice in choices if choice != other_than]
    return allowed[rng.integers(len(allowed))]


def _random_object(rng: np.random.Generator, config: ShapesConfig, place: str) -> SceneObject:
    # Four offsets, not any: what a small model has to learn is how objects look, not how to measure.
    dx, dy = (2 * config.jitter * int(end) - config.jitter for end in rng.integers(0, 2, 2))
    return SceneObject(_pick(rng, SHAPES), _pick(rng, COLORS), _pick(rng, config.sizes), place, dx, dy)


def _random_background(rng: np.random.Generator, config: ShapesConfig) -> Background:
    kind = _pick(rng, config.backgrounds)
    return Background(_pick(rng, BACKGROUNDS), kind, 0 if kind == "plain" else int(rng.integers(NUM_LOOKS)))


def _unambiguous(scene: Scene) -> bool:
    """True if colour and shape alone tell the objects apart, so that instructions need no place."""
    return len({(thing.color, thing.shape) for thing in scene.objects}) == len(scene.objects)


def random_scene(rng: np.random.Generator, config: ShapesConfig, held_out: bool = False) -> Scene:
    """Draws a scene from the training side of the split, or from the held-out side."""
    while True:
        places = rng.permutation(PLACES)[: rng.integers(config.min_objects, config.max_objects + 1)]
        objects = tuple(_random_object(rng, config, str(place)) for place in places)
        scene = Scene(objects, _random_background(rng, config))
        if _unambiguous(scene) and scene.held_out() == held_out:
            return scene


def _possible_kinds(scene: Scene, config: ShapesConfig) -> list[str]:
    impossible = set()
    if len(scene.objects) == config.max_objects:
        impossible.update(ADDS)
    if len(scene.objects) == 1:
        impossible.add("remove")
    return [kind for kind in config.edits if kind not in impossible]


def _with_object(scene: Scene, place: str, new: SceneObject | None) -> Scene:
    others = tuple(thing for thing in scene.objects if thing.place != place)
    return replace(scene, objects=others if new is None else (*others, new))


def _random_change(rng: np.random.Generator, config: ShapesConfig, scene: Scene, kind: str) -> tuple:
    """Draws (scene after the edit, place or None)."""
    if kind == "background":
        color = _pick(rng, BACKGROUNDS, scene.background.color)
        return replace(scene, background=replace(scene.background, color=color)), None
    if kind == "add":
        place = _pick(rng, [place for place in PLACES if scene.at(place) is None])
        return _with_object(scene, place, _random_object(rng, config, place)), place
    if kind == "add_fitting":
        place = _pick(rng, [place for place in PLACES if scene.at(place) is None])
        new = replace(_random_object(rng, config, place), dx=-OFFSET, dy=-OFFSET)
        return _with_object(scene, place, new), place
    old = scene.objects[rng.integers(len(scene.objects))]
    changes = {}
    if kind in ("recolor", "replace"):
        changes["color"] = _pick(rng, COLORS, old.color)
    if kind in ("reshape", "replace"):
        changes["shape"] = _pick(rng, SHAPES, old.shape)
    if kind == "resize":
        changes["size"] = _pick(rng, config.sizes, old.size)
    new = None if kind == "remove" else replace(old, **changes)
    return _with_object(scene, old.place, new), old.place


def _region_box(config: ShapesConfig, kind: str, place: str, things: list[SceneObject]) -> tuple:
    """The whole place, or with jitter the objects' bounding box with padding, cut at the place's border.

    That of an `add_fitting` begins in the place's top left corner, whatever the object's size: its first cell
    is the same, and only its extent tells the size.
    """
    left, top, right, bottom = place_box(place)
    if kind == "add_fitting":
        share = _FITTING_BOX[things[0].size]
        return left, top, left + share * (right - left), top + share * (bottom - top)
    if config.jitter == 0:
        return left, top, right, bottom
    x, y = things[0].center
    reach = max(thing.radius for thing in things) + _PADDING
    return max(left, x - reach), max(top, y - reach), min(right, x + reach), min(bottom, y + reach)


def _describe(
    rng: np.random.Generator, config: ShapesConfig, kind: str, place: str | None, scenes: tuple[Scene, Scene]
) -> Edit:
    """Words and region of the change between the two scenes."""
    before, after = scenes
    old, new = before.at(place), after.at(place)
    template = _INSTRUCTIONS[kind][rng.integers(len(_INSTRUCTIONS[kind]))]
    instruction = template.format(
        old=old and old.name,
        new=new and with_article(new.name),
        unsized=new and with_article(replace(new, size="regular").name),
        color=new and new.color,
        shape=new and with_article(new.shape),
        size=new and new.size,
        where=new and new.where(config.name_offsets),
        background=after.background.color,
    )
    if place is None:
        return Edit(kind, None, None, instruction, after.background.name)
    subject = with_article(new.name) if new else after.background.name
    box = _region_box(config, kind, place, [thing for thing in (old, new) if thing])
    where = new.where(config.name_offsets) if new else at_place(place)
    return Edit(kind, place, box, instruction, f"{subject} {where}")


def random_edit(rng: np.random.Generator, config: ShapesConfig, scene: Scene) -> EditExample | None:
    """Draws an edit of `scene` whose result lies on the same side of the held-out split.

    Returns:
      None if none is found: where an object can only be removed, every result may lie on the other side.
    """
    for _ in range(_ATTEMPTS):
        kind = _pick(rng, _possible_kinds(scene, config))
        after, place = _random_change(rng, config, scene, kind)
        if _unambiguous(after) and after.held_out() == scene.held_out():
            return EditExample(scene, after, _describe(rng, config, kind, place, (scene, after)))
    return None


def random_session(
    seed: Any, config: ShapesConfig, turns: int = 1, held_out: bool = False
) -> list[EditExample]:
    """Draws `turns` edits in a row, each of the previous one's result.

    Args:
      seed: anything `numpy.random.default_rng` takes; equal seeds give equal sessions.
      config: what to draw from.
      turns: 1 to 3.
      held_out: side of the split; training uses False, tests True. No scene is on both sides.
    """
    rng = np.random.default_rng(seed)
    while True:
        scene = random_scene(rng, config, held_out)
        session = []
        while len(session) < turns and (example := random_edit(rng, config, scene)):
            session.append(example)
            scene = example.after
        if len(session) == turns:
            return session
