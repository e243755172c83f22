"""Scenes, their pixels, and edits of the embedded data set."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from dataset.shapes.edits import SETTINGS, EditExample, ShapesConfig, random_session
from dataset.shapes.scenes import (
    BACKGROUNDS,
    COLORS,
    PLACES,
    SHAPES,
    Background,
    Scene,
    SceneObject,
    box_to_pixels,
    place_box,
    render,
)
from runtime.errors import UserError

BOTH_SETTINGS = pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS.keys())


def draw_examples(config: ShapesConfig, count: int, held_out: bool = False) -> list[EditExample]:
    return [random_session([7, i], config, held_out=held_out)[0] for i in range(count)]


def red_circle_and_blue_square() -> Scene:
    things = (
        SceneObject("square", "blue", "regular", "center"),
        SceneObject("circle", "red", "regular", "top left"),
    )
    return Scene(things, Background("gray"))


# Scenes and pixels


def test_caption_lists_objects_in_reading_order():
    caption = "a red circle at the top left, a blue square at the center, gray background"
    assert red_circle_and_blue_square().caption() == caption
    small = SceneObject("star", "orange", "small", "right")
    assert Scene((small,), Background("mint", "striped")).caption() == (
        "a small orange star at the right, striped mint background"
    )
    orange = SceneObject("star", "orange", "regular", "right")
    assert Scene((orange,), Background("mint")).caption().startswith("an orange star")


@pytest.mark.parametrize("size", [48, 72, 100])
def test_every_shape_lies_in_its_place_with_a_margin(size):
    for shape in SHAPES:
        scene = Scene((SceneObject(shape, "black", "regular", "right"),), Background("white"))
        changed = (render(scene, size) != np.array(BACKGROUNDS["white"])).any(axis=-1)
        rows, columns = np.nonzero(changed)
        left, top, right, bottom = box_to_pixels(place_box("right"), size)
        margin = size // 72
        assert top + margin <= rows.min() and rows.max() < bottom - margin
        assert left + margin <= columns.min() and columns.max() < right - margin
        assert changed.sum() > 0.15 * (right - left) ** 2


def test_a_place_is_three_tokens_of_eight_pixels_at_72():
    assert [box_to_pixels(place_box(place), 72) for place in PLACES[:4]] == [
        (0, 0, 24, 24),
        (24, 0, 48, 24),
        (48, 0, 72, 24),
        (0, 24, 24, 48),
    ]


def test_edges_are_anti_aliased_and_the_inside_is_the_palette_colour():
    scene = Scene((SceneObject("circle", "red", "regular", "center"),), Background("white"))
    pixels = render(scene, 72)
    assert tuple(pixels[36, 36]) == COLORS["red"]
    assert tuple(pixels[0, 0]) == BACKGROUNDS["white"]
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 6


@pytest.mark.parametrize("kind", ["gradient", "striped", "speckled"])
def test_textures_depend_on_their_seed_and_keep_the_named_colour(kind):
    first, second = (render(Scene((), Background("beige", kind, seed)), 64) for seed in (1, 2))
    assert (first != second).any() and first.std(axis=(0, 1)).min() > 2
    assert np.abs(np.median(first, axis=(0, 1)) - BACKGROUNDS["beige"]).max() < 12


def test_palettes_are_well_separated():
    objects, backgrounds = (np.array(list(p.values()), float) for p in (COLORS, BACKGROUNDS))
    for first, second, least in (
        (objects, objects, 90),
        (backgrounds, backgrounds, 40),
        (objects, backgrounds, 100),
    ):
        distances = np.linalg.norm(first[:, None] - second[None], axis=-1)
        assert distances[distances > 0].min() > least


# Edits


@BOTH_SETTINGS
def test_equal_seeds_give_equal_sessions_and_pixels(config):
    first, second = (random_session([3, 1], config, turns=3) for _ in range(2))
    assert first == second
    assert (render(first[0].after, 40) == render(second[0].after, 40)).all()
    assert random_session([3, 2], config, turns=3) != first


@BOTH_SETTINGS
@pytest.mark.parametrize("size", [64, 72])
def test_the_region_covers_every_changed_pixel(config, size):
    for example in draw_examples(config, 150):
        changed = (render(example.before, size) != render(example.after, size)).any(axis=-1)
        assert changed.any()
        assert not (changed & ~example.edit.region(size)).any()


def test_the_easy_region_is_the_whole_place():
    for example in draw_examples(SETTINGS["easy"], 30):
        rows, columns = np.nonzero(example.edit.region(72))
        assert len(rows) == 24 * 24 and rows.min() % 24 == 0 and columns.min() % 24 == 0


@BOTH_SETTINGS
def test_all_kinds_occur_and_words_hold_what_is_needed(config):
    examples = draw_examples(config, 400)
    assert {example.edit.kind for example in examples} == set(config.edits)
    for example in examples:
        edit, old, new = (
            example.edit,
            example.before.at(example.edit.place),
            example.after.at(example.edit.place),
        )
        assert len(example.after.caption().replace(",", "").split()) <= 27
        needed = {
            "recolor": ("{old.name}", "{new.color}"),
            "reshape": ("{old.name}", "{new.shape}"),
            "resize": ("{old.name}", "{new.size}"),
            "replace": ("{old.name}", "{new.name}"),
            "add": ("{new.name}", "{new.place}"),
            "remove": ("{old.name}",),
            "background": ("{after.background.color}",),
        }[edit.kind]
        needed = [word.format(old=old, new=new, after=example.after) for word in needed]
        assert all(word in edit.instruction for word in needed)
        assert (new.name if new else example.after.background.color) in edit.local_description


@BOTH_SETTINGS
def test_each_turn_edits_the_result_of_the_one_before(config):
    for seed in range(20):
        session = random_session(seed, config, turns=3)
        assert [turn.before for turn in session[1:]] == [turn.after for turn in session[:-1]]
        assert all(1 <= len(turn.after.objects) <= 3 for turn in session)


@BOTH_SETTINGS
def test_examples_survive_json(config):
    for example in draw_examples(config, 50):
        assert EditExample.from_dict(json.loads(json.dumps(example.to_dict()))) == example


@BOTH_SETTINGS
def test_no_scene_is_on_both_sides_of_the_split(config):
    train, test = draw_examples(config, 1500), draw_examples(config, 300, held_out=True)
    scenes = [{s.caption() for e in side for s in (e.before, e.after)} for side in (train, test)]
    assert not scenes[0] & scenes[1]
    assert not {e.key() for e in train} & {e.key() for e in test}


def test_offsets_and_texture_seeds_do_not_change_the_side():
    thing = SceneObject("star", "red", "small", "left")
    sides = {
        Scene((replace(thing, dx=dx),), Background("gray", "striped", seed)).held_out()
        for dx in (0.0, 0.05, 0.1)
        for seed in range(10)
    }
    assert len(sides) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"edits": ("recolour",)},
        {"backgrounds": ()},
        {"jitter": 0.3},
        {"edits": ("resize",)},
        {"image_size": 5},
        {"max_objects": 9},
    ],
)
def test_wrong_settings_are_user_errors(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        ShapesConfig(**wrong)
