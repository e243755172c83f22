"""Variants of the hard setting: what they change, and that all else is what it was."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from dataset.edit_masks import pool_edit_mask
from dataset.shapes.captions import parse_caption
from dataset.shapes.edits import SETTINGS, VARIANTS, random_session
from dataset.shapes.flags import PrepareShapesConfig
from dataset.shapes.prepare import prepare_shapes
from dataset.shapes.scenes import OFFSET, Background, Scene, SceneObject, render
from dataset.shapes.verifier import verify_edit
from language.caption_cleaning import clean_caption
from language.small_encoder import make_small_t5, read_captions
from runtime.errors import UserError

CONFIGS = {name: replace(SETTINGS["hard"], **changes) for name, changes in VARIANTS.items()}
GRID = 9  # of 8 pixels at 72


def prepare(folder: Path, **changes) -> Path:
    values = {"num_train": 40, "num_test": 14, "num_emu": 5, "num_workers": 1} | changes
    prepare_shapes(PrepareShapesConfig(output_dir=str(folder), **values))
    return folder


def digest(folder: Path) -> str:
    """Of pixels and texts: PNG and parquet bytes hang on the libraries' versions."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.*")):
        if path.suffix == ".png" and path.name != "preview.png":
            found.update(path.name.encode() + np.asarray(Image.open(path)).tobytes())
        elif path.suffix in (".json", ".jsonl"):
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, "2e1c7a75cf6f236f"),
        ({"setting": "hard"}, "26cdb36ecf443d5a"),
        ({"setting": "hard", "edits": ["add", "add", "recolor", "resize"]}, "8708c777808de0c9"),
    ],
)
def test_data_of_the_earlier_flags_is_what_it_was(tmp_path, flags, expected):
    """Recorded before there were variants."""
    assert digest(prepare(tmp_path / "set", **flags)) == expected


def examples(name: str, count: int = 300) -> list:
    return [random_session([5, i], CONFIGS[name])[0] for i in range(count)]


def test_a_caption_can_name_the_offset_and_is_read_back():
    places = ("top left", "top", "center", "bottom right")
    for place, dx, dy in product(places, (-OFFSET, 0.0, OFFSET), (-OFFSET, 0.0, OFFSET)):
        scene = Scene((SceneObject("circle", "red", "small", place, dx, dy),), Background("gray"))
        assert parse_caption(scene.caption(offsets=True)) == scene
        assert parse_caption(scene.caption()) == parse_caption(scene.caption(offsets=dx == dy == 0))
    star = SceneObject("star", "blue", "large", "top", OFFSET, -OFFSET)
    assert Scene((star,), Background("mint")).caption(True) == (
        "a large blue star at the top shifted up right, mint background"
    )
    with pytest.raises(UserError, match="is no caption of the shapes set"):
        parse_caption("a red circle at the top shifted sideways, gray background")


def test_named_offsets_change_words_and_nothing_else():
    plain = [random_session([5, i], SETTINGS["hard"])[0] for i in range(300)]
    for named, example in zip(examples("named_offsets"), plain, strict=True):
        assert (named.before, named.after, named.edit.box) == (
            example.before,
            example.after,
            example.edit.box,
        )
        before = CONFIGS["named_offsets"].caption(named.before)
        assert before.count("shifted") == len(named.before.objects)
        said = parse_caption(before)
        assert [(t.dx, t.dy) for t in said.objects] == [(t.dx, t.dy) for t in named.before.objects]
        is_add = example.edit.kind == "add"
        assert ("shifted" in named.edit.instruction) == is_add
        assert is_add or named.edit.instruction == example.edit.instruction
    assert {example.edit.kind for example in plain} == set(SETTINGS["hard"].edits)


def test_the_split_does_not_hang_on_the_words_for_offsets():
    for i in range(100):
        (example,) = random_session([6, i], CONFIGS["named_offsets"], held_out=True)
        assert example.before.held_out() and example.after.held_out()


def test_without_offsets_objects_stand_in_the_middle_and_regions_are_places():
    for example in examples("no_offsets"):
        assert all(thing.dx == thing.dy == 0 for thing in example.after.objects)
        if example.edit.box is not None:
            assert example.edit.region(72).sum() == 24 * 24
    assert {example.edit.kind for example in examples("no_offsets")} == set(SETTINGS["hard"].edits)


def test_of_adds_that_fit_only_the_extent_of_the_region_tells_the_size():
    """H(size | region) = 0, H(size | words, source, first cell) = ln 2: what marks are worth."""
    adds = [example for example in examples("fitting_adds", 800) if example.edit.kind == "add_fitting"]
    assert len(adds) > 300
    of_first, of_region = Counter(), Counter()
    for example in adds:
        size = example.after.at(example.edit.place).size
        assert "small" not in example.edit.instruction and "large" not in example.edit.instruction
        region = example.edit.region(72)
        changed = (render(example.before, 72) != render(example.after, 72)).any(-1)
        assert changed.any() and not (changed & ~region).any()
        cells = (
            pool_edit_mask(torch.from_numpy(region[None]).float(), GRID, "exact").nonzero().flatten().tolist()
        )
        assert len(cells) == {"small": 4, "large": 9}[size]
        of_first[cells[0], size] += 1
        of_region[tuple(cells), size] += 1
    for first in {first for first, _ in of_first}:
        small, large = of_first[first, "small"], of_first[first, "large"]
        share = small / (small + large)
        entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
        assert entropy > 0.9 * math.log(2)
    assert len({cells for cells, _ in of_region}) == len(of_region) == 18  # one size a region


def test_crowded_scenes_hold_six_to_eight_objects_and_can_be_judged():
    counts = Counter()
    for i in range(60):
        (example,) = random_session([7, i], CONFIGS["crowded"])
        counts[len(example.before.objects)] += 1
        assert 5 <= len(example.after.objects) <= 8
        assert parse_caption(example.after.caption()).caption() == example.after.caption()
        verdict = verify_edit(render(example.after, 72), example.before, example.after, example.edit)
        assert verdict.passed_and_unchanged
    assert set(counts) == {6, 7, 8}
    with pytest.raises(UserError, match="min_objects=9: choose 1 to 8"):
        replace(CONFIGS["crowded"], min_objects=9)
    with pytest.raises(UserError, match="max_objects=9: choose 2 to 8"):
        replace(SETTINGS["hard"], max_objects=9)


def test_the_verifier_asks_for_the_size_that_fits():
    for example in [e for e in examples("fitting_adds", 60) if e.edit.kind == "add_fitting"]:
        new = example.after.at(example.edit.place)
        other = replace(new, size={"small": "large", "large": "small"}[new.size])
        things = tuple(other if thing.place == new.place else thing for thing in example.after.objects)
        for scene, right in ((example.after, True), (replace(example.after, objects=things), False)):
            verdict = verify_edit(render(scene, 72), example.before, example.after, example.edit)
            assert (verdict.passed, verdict.size, verdict.color, verdict.shape) == (right, right, True, True)
        assert not verify_edit(render(example.before, 72), example.before, example.after, example.edit).passed


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_written_and_read(tmp_path, variant):
    folder = prepare(tmp_path / "set", setting="hard", variant=variant)
    lists = [folder / "train" / f"{name}.jsonl" for name in ("t2i", "editing")]
    texts = read_captions(lists)
    assert any("shifted" in text for text in texts) == (variant == "named_offsets")
    make_small_t5(texts, tmp_path / "t5")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "t5")
    words = {word for text in texts for word in tokenizer.tokenize(clean_caption(text))}
    assert tokenizer.unk_token not in words
    assert {"shifted", "up", "down"} <= words or variant != "named_offsets"
    told = json.loads((folder / "test" / "global_descriptions.json").read_text())
    assert all(parse_caption(text) for files in told.values() for text in files.values())
    emu = json.loads((folder / "test_emu" / "emu_test_data.json").read_text())
    assert all(("shifted" in item["input_caption"]) == (variant == "named_offsets") for item in emu)
    assert json.loads((folder / "shapes_set.json").read_text())["settings"]["variant"] == variant
    with pytest.raises(UserError, match=f"variant={variant} instead of None"):
        prepare(folder, setting="hard")


def test_what_a_variant_needs():
    with pytest.raises(UserError, match="--variant no_offsets is one of the hard setting"):
        PrepareShapesConfig(output_dir="x", variant="no_offsets")
    with pytest.raises(UserError, match="its boxes are for small and large"):
        replace(SETTINGS["easy"], edits=("add_fitting", "recolor"))
    with pytest.raises(UserError, match="impossible in some scenes"):
        replace(SETTINGS["hard"], edits=("add", "add_fitting"))
