"""GEdit-Bench's and ImgEdit-Bench's lists: where results belong, and what is wrong in them."""

from __future__ import annotations

import json

import pytest
from pictures import picture, png
from preparation_data import cell, write_parquet

from dataset.records.images import load_image
from dataset.testsets.judged import read_gedit, read_imgedit_bench
from runtime.errors import UserError

IMAGES = ("input_image_raw", "input_image")


def gedit_row(number: int, **changes) -> dict:
    return {
        "key": f"k{number}",
        "task_type": "subject-add",
        "instruction": f"add {number}",
        "instruction_language": "cn" if number % 2 else "en",
        "input_image_raw": cell(png(picture(number))),
        "input_image": cell(png(picture(number, 8))),
    } | changes


def write_gedit(folder, rows) -> None:
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows, IMAGES)


def test_gedit_bench(tmp_path):
    write_gedit(tmp_path, [gedit_row(0), gedit_row(1), gedit_row(2)])
    items = read_gedit(tmp_path, ["en"])
    assert [item.key for item in items] == [f"fullset/subject-add/en/k{n}.png" for n in (0, 2)]
    assert items[1].instruction == "add 2" and items[1].shown_key == "fullset/subject-add/en/k2_SRCIMG.png"
    assert load_image(items[1].source).tobytes() == picture(2).tobytes()
    assert load_image(items[1].shown).size == (8, 8)
    assert len(read_gedit(tmp_path / "data", ["en", "cn"])) == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([gedit_row(0), gedit_row(0)], r"row 1: fullset/subject-add/en/k0.png is the result of .* row 0 too"),
        ([gedit_row(0, key="../x")], r"row 0: key '../x' must be a plain file name"),
        ([gedit_row(0, instruction=" ")], r"row 0: 'instruction' must be a text, got ' '"),
        (
            [gedit_row(0, instruction_language="de")],
            r"row 0: instruction_language must be one of .*, got 'de'",
        ),
        ([gedit_row(1)], "no item in en"),
    ],
    ids=["twice", "path", "blank", "language", "none"],
)
def test_what_is_wrong_in_gedit_bench_is_named(tmp_path, rows, message):
    write_gedit(tmp_path, rows)
    with pytest.raises(UserError, match=message):
        read_gedit(tmp_path, ["en"])


def test_files_that_are_not_gedit_benchs(tmp_path):
    with pytest.raises(UserError, match="holds no parquet files"):
        read_gedit(tmp_path)
    row = gedit_row(0)
    del row["input_image_raw"]
    write_parquet(tmp_path / "x.parquet", [row], ("input_image",))
    with pytest.raises(UserError, match=r"x.parquet: lacks the column\(s\) input_image_raw"):
        read_gedit(tmp_path)
    write_parquet(tmp_path / "x.parquet", [gedit_row(0, input_image_raw=cell(None))], IMAGES)
    with pytest.raises(UserError, match=r"x.parquet row 0 input_image_raw: no image bytes"):
        load_image(read_gedit(tmp_path)[0].source)


def test_imgedit_bench(tmp_path):
    (tmp_path / "daily object").mkdir()
    picture().save(tmp_path / "daily object" / "1.png")
    entry = {"id": "daily object/1.png", "prompt": "remove it", "edit_type": "remove"}
    (tmp_path / "singleturn.json").write_text(json.dumps({"1082": entry}))
    (tmp_path / "other.json").write_text(json.dumps({"7": entry}))
    (item,) = read_imgedit_bench(tmp_path)
    assert (item.key, item.instruction) == ("1082.png", "remove it")
    assert load_image(item.source).size == picture().size
    assert read_imgedit_bench(tmp_path, tmp_path / "other.json")[0].key == "7.png"
    for content, message in (
        ("{", "not JSON"),
        ("{}", "holds no item"),
        ('{"1": {}, "1": {}}', "the key '1' is there twice"),
        ('{"1": {"id": "a.png"}}', "item '1': needs a text under the key 'prompt', got None"),
        ('{"1": {"id": "../a.png", "prompt": "x"}}', r"item '1': ../a.png leads out of"),
        ('{"a/b": {"id": "a.png", "prompt": "x"}}', r"key 'a/b' must be a plain file name"),
        ('{"1": {"id": "a.png", "prompt": "x"}}', r"names 1 missing file\(s\): .*a.png"),
    ):
        (tmp_path / "singleturn.json").write_text(content)
        with pytest.raises(UserError, match=f"singleturn.json: .*{message}"):
            read_imgedit_bench(tmp_path)
    (tmp_path / "singleturn.json").unlink()
    with pytest.raises(UserError, match="give ImgEdit-Bench's list with --edit-json"):
        read_imgedit_bench(tmp_path)
