"""The files of the embedded data set, in every format."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dataset.shapes.edits import EditExample
from dataset.shapes.flags import PrepareShapesConfig
from dataset.shapes.prepare import prepare_shapes
from dataset.shapes.verifier import verify_edit
from runtime.errors import UserError


def _passes(pixels: np.ndarray, example: EditExample) -> bool:
    return verify_edit(pixels, example.before, example.after, example.edit).passed


def prepare(folder: Path, **changes) -> PrepareShapesConfig:
    values = {"num_train": 30, "num_test": 14, "num_emu": 5, "image_size": 48, "num_workers": 1} | changes
    config = PrepareShapesConfig(output_dir=str(folder), **values)
    prepare_shapes(config)
    return config


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "set"
    prepare(folder, setting="hard", write_parquet=True)
    return folder


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_training_lists_name_existing_images(prepared):
    train = prepared / "train"
    lines = read_lines(train / "editing.jsonl")
    assert len(lines) == 30
    for line in lines:
        source, edited = (np.asarray(Image.open(train / line[k])) for k in ("file_name", "edited_image"))
        changed = (source != edited).any(axis=-1)
        assert source.shape == (48, 48, 3) and changed.any()
        if line["mask_image"] != "NONE":
            assert (np.asarray(Image.open(train / line["mask_image"]))[changed] == 255).all()
        assert line["edit_prompt"] and line["input_caption"] != line["output_caption"]
    captioned = read_lines(train / "t2i.jsonl")
    contents = [(train / line["image_path"]).read_bytes() for line in captioned]
    assert len(set(contents)) == len(contents) > 40


def test_test_sessions_are_magicbrush_and_verify(prepared):
    test = prepared / "test"
    names = ("edit_sessions", "global_descriptions", "local_descriptions", "shapes")
    sessions, descriptions, local, scenes = (json.loads((test / f"{n}.json").read_text()) for n in names)
    assert sum(map(len, sessions.values())) == 14
    assert {len(turns) for turns in sessions.values()} == {1, 2, 3}
    for identity, turns in sessions.items():
        folder = test / "images" / identity
        assert set(descriptions[identity]) == {turns[0]["input"], *(turn["output"] for turn in turns)}
        for number, turn in enumerate(turns, start=1):
            assert turn["mask"] == f"{identity}-mask{number}.png"
            source, mask, output = (
                np.asarray(Image.open(folder / turn[k])) for k in ("input", "mask", "output")
            )
            assert mask.shape == (48, 48, 4) and (mask[..., :3] == source).all()
            assert (mask[..., 3] == 0)[(source != output).any(axis=-1)].all()
            example = EditExample.from_dict(scenes[identity][number - 1])
            assert _passes(output, example) and not _passes(source, example)
            assert local[identity][turn["output"]] == example.edit.local_description


def test_emu_items_hold_the_source_image(prepared):
    folder = prepared / "test_emu"
    rows = pq.read_table(folder / "test.parquet").to_pylist()
    listing = json.loads((folder / "emu_test_data.json").read_text())
    assert len(rows) == len(listing) == 5
    for row, item in zip(rows, listing, strict=True):
        assert set(row) == {
            "instruction", "image", "task", "split", "idx", "hash", "input_caption", "output_caption"
        }  # fmt: skip
        assert set(item) == {"idx", "input_caption", "output_caption", "edit_instruction"}
        assert row["idx"] == item["idx"] and item["input_caption"] != item["output_caption"]
        assert (folder / "images_valid" / f"{item['idx']}_gt.png").read_bytes() == row["image"]["bytes"]


def test_parquet_repeats_the_training_list(prepared):
    rows = pq.read_table(prepared / "train" / "editing.parquet").to_pylist()
    lines = read_lines(prepared / "train" / "editing.jsonl")
    assert [row["edit_prompt"] for row in rows] == [line["edit_prompt"] for line in lines]
    free = [row for row, line in zip(rows, lines, strict=True) if line["mask_image"] == "NONE"]
    masks = [np.asarray(Image.open(io.BytesIO(row["mask_image"]["bytes"]))) for row in free]
    assert masks and all((mask == 255).all() for mask in masks)


def test_held_out_edits_are_not_in_the_training_list(tmp_path):
    prepare(tmp_path / "set", num_train=800, num_test=100, image_size=24)
    train = read_lines(tmp_path / "set" / "train" / "editing.jsonl")
    seen = {line[key] for line in train for key in ("input_caption", "output_caption")}
    test = json.loads((tmp_path / "set" / "test" / "global_descriptions.json").read_text())
    shown = {caption for files in test.values() for caption in files.values()}
    assert len(shown) > 100 and not shown & seen


def test_a_finished_set_is_left_alone_and_other_settings_are_refused(prepared, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    prepare(prepared, setting="hard", write_parquet=True)
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == before
    with pytest.raises(UserError, match="num_train=30 instead of 31"):
        prepare(prepared, setting="hard", num_train=31)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="other files"):
        prepare(tmp_path)


def test_kinds_of_edit_can_be_chosen_and_weighted(tmp_path):
    prepare(tmp_path / "set", num_train=60, setting="hard", edits=["add", "add", "add", "recolor"])
    asked = [line["edit_prompt"].split()[0] for line in read_lines(tmp_path / "set" / "train/editing.jsonl")]
    adds = sum(word in ("add", "put", "draw") for word in asked)
    recolors = sum(word in ("change", "make", "paint") for word in asked)
    assert adds + recolors == 60 and adds > recolors > 0
    with pytest.raises(UserError, match="edits=.*instead of None"):
        prepare(tmp_path / "set", num_train=60, setting="hard")
    with pytest.raises(UserError, match="impossible in some scenes"):
        prepare(tmp_path / "adds", edits=["add"])


def test_an_interrupted_run_goes_on_and_ends_like_an_unbroken_one(tmp_path, monkeypatch):
    prepare(tmp_path / "whole", num_train=300)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dataset.shapes.prepare.draw_test_sessions", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "broken", num_train=300)
    kept = tmp_path / "broken" / "train" / "images" / "000010_source.png"
    written = kept.stat().st_mtime_ns
    (tmp_path / "broken" / "train" / "parts" / "00000250.json").unlink()
    monkeypatch.undo()
    prepare(tmp_path / "broken", num_train=300)
    assert kept.stat().st_mtime_ns == written
    files = [
        sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n).rglob("*.*")) for n in ("whole", "broken")
    ]
    assert files[0] == files[1]
    for name in files[0]:
        if name.suffix != ".parquet":
            assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"num_train": 0}, "--num-train 0: must be at least 1"),
        ({"num_test": 0}, "--num-test 0: must be at least 1"),
        ({"num_workers": 0}, "--num-workers 0: must be between 1 and 4096"),
        ({"seed": -1}, "--seed -1: must be between 0 and"),
    ],
)
def test_wrong_counts_are_user_errors(wrong, words):
    with pytest.raises(UserError, match=words):
        PrepareShapesConfig(output_dir="unused", **wrong)
