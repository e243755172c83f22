"""Emu Edit's parquet files as images and a valid list."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import picture, png
from PIL import Image
from preparation_data import Killed, cell, encoded, kill_after, no_space, snapshot, write_parquet

from dataset.prepare.emu_edit import prepare_emu_edit
from dataset.prepare.flags import PrepareEmuEditConfig
from dataset.records.images import load_image
from dataset.testsets.emu_edit import read_emu_prepared, read_valid_list
from runtime.config import parse
from runtime.errors import UserError


def row(idx: int | None, before: str | None = "a cat", after: str | None = "a dog", **changes) -> dict:
    values = {
        "instruction": f"edit {idx}",
        "image": cell(png(picture(idx or 0))),
        "task": "color",
        "split": "test",
        "idx": idx,
        "hash": "h",
        "input_caption": before,
        "output_caption": after,
    }
    return values | changes


def run(folder: Path, *flags: object, output: str = "out") -> Path:
    words = ["--data-path", folder, "--output-dir", folder / output, "--num-workers", 1, *flags]
    return prepare_emu_edit(parse(PrepareEmuEditConfig, [str(word) for word in words]))


def entry(idx: int) -> dict:
    return {"idx": idx, "input_caption": "a", "output_caption": "b", "edit_instruction": f"listed {idx}"}


@pytest.fixture
def data(tmp_path):
    rows = [row(3), row(1, "same", "same "), row(7, None), row(5)]
    write_parquet(tmp_path / "data" / "test-00000-of-00002.parquet", rows, ("image",))
    write_parquet(tmp_path / "data" / "test-00001-of-00002.parquet", [row(0, after="")], ("image",))
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", [row(1)], ("image",))
    return tmp_path


def test_images_and_a_valid_list_of_its_own(data):
    listing = run(data)
    assert sorted(path.name for path in (data / "out" / "images").iterdir()) == [
        f"{idx}.png" for idx in (0, 1, 3, 5, 7)
    ]
    assert sorted(path.name for path in (data / "out" / "images_valid").iterdir()) == ["3_gt.png", "5_gt.png"]
    items = read_emu_prepared(data / "out", listing)
    assert [(item.idx, item.instruction, item.output_caption) for item in items] == [
        (3, "edit 3", "a dog"),
        (5, "edit 5", "a dog"),
    ]
    for item in items:
        assert np.array_equal(np.asarray(load_image(item.source_path)), np.asarray(picture(item.idx)))
    before = snapshot(data / "out")
    run(data)
    assert snapshot(data / "out") == before, "a second run must do nothing"


def test_a_given_list(data):
    given = data / "given.json"
    given.write_text(json.dumps([entry(7), entry(0)]))
    assert read_valid_list(run(data, "--valid-list", given)) == [entry(7), entry(0)]
    (data / "out" / "images" / "7.png").unlink()
    (item, _) = read_emu_prepared(data / "out", given)
    assert item.source_path == data / "out" / "images_valid" / "7_gt.png"

    given.write_text(json.dumps([entry(7), entry(8)]))
    with pytest.raises(UserError, match="1 of 6 items cannot be used"):
        run(data, "--valid-list", given)
    listing = run(data, "--valid-list", given, "--bad-sample-budget", 0.2)
    assert [e["idx"] for e in read_valid_list(listing)] == [7], "what has no image is not on the written list"


def test_splits_have_folders_of_their_own(data):
    listing = run(data, "--split", "validation", output="validation")
    assert [e["idx"] for e in read_valid_list(listing)] == [1]
    with pytest.raises(UserError, match="already holds images"):
        run(data, output="validation")


def test_other_encodings_become_png(tmp_path):
    jpeg = encoded(picture(4), "JPEG")
    write_parquet(tmp_path / "test.parquet", [row(4, image=cell(jpeg))], ("image",))
    run(tmp_path)
    image = Image.open(tmp_path / "out" / "images" / "4.png")
    (tmp_path / "4.jpg").write_bytes(jpeg)
    assert image.format == "PNG"
    assert np.array_equal(np.asarray(image), np.asarray(load_image(tmp_path / "4.jpg")))


def test_bad_rows_are_named(tmp_path):
    rows = [row(1), row(None), row(1), row(2, image=cell(b"x")), row(4, instruction=None), row(9)]
    write_parquet(tmp_path / "test-0.parquet", rows, ("image",))
    with pytest.raises(UserError, match="4 of 6 items"):
        run(tmp_path)
    bad = (tmp_path / "out" / "emu_test_preparation" / "bad_items.txt").read_text()
    for reason in ("row 1: idx must be a whole number", "row 2: idx 1 is that of",
                   "row 3 image (idx 2): not an image", "row 4: 'instruction' must be a text"):  # fmt: skip
        assert f"test-0.parquet {reason}" in bad
    assert [e["idx"] for e in read_valid_list(run(tmp_path, "--bad-sample-budget", 0.7))] == [1, 9]


def test_wrong_files(data, tmp_path):
    write_parquet(tmp_path / "other" / "test-0.parquet", [{"idx": 1, "image": cell(b"")}], ("image",))
    with pytest.raises(UserError, match="lacks the column.*instruction"):
        run(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no test\*.parquet"):
        run(tmp_path / "empty")


def test_resume_after_a_kill(data, monkeypatch):
    with monkeypatch.context() as patch:
        kill_after(patch, "dataset.prepare.pictures", 3)
        with pytest.raises(Killed):
            run(data)
    assert not list((data / "out").glob("*.json"))
    stamp = (data / "out" / "images" / "3.png").stat().st_mtime_ns
    listing = run(data)
    assert (data / "out" / "images" / "3.png").stat().st_mtime_ns == stamp, "a finished part was done again"
    assert len(read_emu_prepared(data / "out", listing)) == 2 and not list((data / "out").rglob("*.tmp"))


def test_a_replaced_image_is_linked_anew(data):
    run(data)
    write_parquet(
        data / "data" / "test-00000-of-00002.parquet", [row(3, image=cell(png(picture(9))))], ("image",)
    )
    run(data)
    linked = np.asarray(load_image(data / "out" / "images_valid" / "3_gt.png"))
    assert np.array_equal(linked, np.asarray(picture(9)))


def test_too_little_space(data, monkeypatch):
    no_space(monkeypatch)
    with pytest.raises(UserError, match="are needed"):
        run(data)
    assert not (data / "out" / "images").exists()


_FAR = pa.array([1 << 45] * 3, pa.timestamp("s"))  # no date that Python has
_NOT_UTF8 = pa.Array.from_buffers(
    pa.string(),
    3,
    [None, pa.py_buffer(np.array([0, 1, 4, 5], "<i4").tobytes()), pa.py_buffer(b"a\xed\xa0\x80b")],
)


@pytest.mark.parametrize(
    ("column", "values", "bad"),
    [
        ("idx", _FAR, {0, 1, 2}),
        ("idx", pa.array([b"1", b"2", b"3"]), {0, 1, 2}),
        ("idx", pa.array([True, False, True]), {0, 1, 2}),
        ("task", _FAR, {0, 1, 2}),
        ("task", pa.array([b"a", None, b"c"]), {0, 2}),
        ("input_caption", pa.array([1, None, 2]), {0, 2}),
        ("output_caption", _NOT_UTF8, {1}),
        ("instruction", _NOT_UTF8, {1}),
        ("instruction", _FAR, {0, 1, 2}),
    ],
)
def test_cells_of_a_wrong_type_are_named_by_row(tmp_path, column, values, bad):
    path = write_parquet(tmp_path / "data" / "test-0.parquet", [row(3), row(5), row(7)], ("image",), 3)
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, values), path)
    with pytest.raises(UserError, match="bad_items.txt"):
        run(tmp_path)
    named = (tmp_path / "out" / "emu_test_preparation" / "bad_items.txt").read_text()
    assert {number for number in range(3) if f"{path} row {number}" in named} == bad
    if len(bad) < 3:
        run(tmp_path, "--bad-sample-budget", "0.9")
        assert len(list((tmp_path / "out" / "images").iterdir())) == 3 - len(bad)
