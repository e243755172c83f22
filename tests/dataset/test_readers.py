from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import SIZE, picture, square_mask
from PIL import Image

from dataset.batches import collate_samples
from dataset.build import build_dataset
from dataset.prepare.tables import Row, _read_rows, find_parquet
from dataset.records.edit_records import JsonlEditRecords
from dataset.records.images import image_to_tensor
from dataset.records.t2i_records import read_t2i_jsonl
from dataset.testsets.emu_edit import read_emu_parquet
from dataset.testsets.judged import read_gedit
from language.text_features import TextFeatures
from runtime.errors import UserError


def write_lines(file: Path, *lines: dict | str) -> Path:
    file.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return file


@pytest.fixture
def folder(tmp_path):
    """Two images, a mask, an empty mask, a small mask, features; and nothing else."""
    picture(0).save(tmp_path / "a.png")
    picture(1).save(tmp_path / "b.png")
    square_mask().save(tmp_path / "mask.png")
    Image.new("L", (SIZE, SIZE)).save(tmp_path / "empty.png")
    square_mask(8).save(tmp_path / "small.png")
    np.save(tmp_path / "features.npy", np.ones((1, 3, 8), dtype=np.float32))
    np.save(tmp_path / "narrow.npy", np.ones((1, 3, 7), dtype=np.float32))
    return tmp_path


EDIT = {
    "file_name": "a.png",
    "edited_image": "b.png",
    "mask_image": "mask.png",
    "edit_prompt": "make it red",
    "output_caption": "a red thing",
    "target_caption_t5_path": "features.npy",
}


def editing(folder: Path, *lines: dict | str, **options):
    file = write_lines(folder / "edits.jsonl", *lines)
    options = {"feature_width": None, "grid": 4, **options}
    return build_dataset("editing_ultraedit", [file], SIZE, **options)


def test_bad_lines_name_file_and_line(folder):
    file = write_lines(
        folder / "t2i.jsonl",
        {"image_path": "a.png", "text": "one"},
        "",
        "{broken",
        "[1, 2]",
        {"text": "no image"},
        {"image_path": 7, "text": "x"},
        {"image_path": "a.png"},
        {"image_path": "a.png", "text": [3]},
    )
    with file.open("ab") as stream:
        stream.write(b'{"image_path": "\xff\xfe"}')
    records = read_t2i_jsonl([file])
    assert len(records) == 8 and records[0].text == "one" and records[0].origin == f"{file} line 1"
    messages = []
    for index in range(1, 8):
        with pytest.raises(UserError) as caught:
            records[index]
        messages.append(str(caught.value))
    reasons = [
        "line 3: not JSON",
        "line 4: must be an object",
        "line 5: lacks the key 'image_path'",
        "line 6: 'image_path' must be a non-empty string, got 7",
        "line 7: needs the key 'embedding_path' or 'text'",
        "line 8: 'text' must begin with a non-empty string",
        "line 9: not JSON",
    ]
    for message, reason in zip(messages, reasons, strict=True):
        assert message.startswith(f"{file} {reason}")


def test_t2i_samples(folder):
    file = write_lines(
        folder / "t2i.jsonl",
        {"image_path": "a.png", "embedding_path": "features.npy"},
        {"image_path": "none.png", "text": "x"},
        {"image_path": "a.png", "embedding_path": "narrow.npy"},
        "{",
    )
    dataset = build_dataset("t2i_cc12m", [file], SIZE, 8)
    samples = [dataset[index, 10 + index] for index in range(4)]
    assert samples[0].problem is None and samples[0].text.embeddings.shape == (3, 8)
    assert torch.allclose(
        (samples[0].image + 1) * 127.5, torch.tensor(np.array(picture())).permute(2, 0, 1) * 1.0
    )
    reasons = ["none.png: no such file", "narrow.npy: text features of width 7", f"{file} line 4: not JSON"]
    for sample, reason in zip(samples[1:], reasons, strict=True):
        assert reason in sample.problem
        assert not sample.image.any() and sample.origin.startswith(str(file))
    batch = collate_samples(samples)
    assert batch.valid.tolist() == [True, False, False, False] and batch.image.shape == (4, 3, SIZE, SIZE)
    assert batch.seeds == [10, 11, 12, 13] and all(isinstance(text, TextFeatures) for text in batch.texts)
    strings = build_dataset("t2i_cc12m", [file], SIZE, None)
    assert "text features only" in strings[0, 0].problem and strings[0, 0].text == ""


def test_small_t2i_image_is_a_named_problem(folder):
    file = write_lines(folder / "t2i.jsonl", {"image_path": "a.png", "text": "x"})
    problem = build_dataset("t2i_cc12m", [file], SIZE + 1, None)[0, 0].problem
    assert "a.png: the image is 16x16, its short side is below 17" in problem


def test_llamagen_folder(folder):
    lines = folder / "lines"
    lines.mkdir()
    for name in ("x", "y", "z"):
        picture().save(lines / f"{name}.png")
    write_lines(lines / "part.jsonl", *({"image_path": f"{n}.png", "text": [n, "other"]} for n in "xyz"))
    features, short = folder / "features" / "part", folder / "short" / "part"
    for path in (features, short):
        path.mkdir(parents=True)
    for name in ("0", "y", "1"):
        np.save(features / f"{name}.npy", np.zeros((1, 1, 8), dtype=np.float32))
    np.save(short / "0.npy", np.ones((1, 1, 8), dtype=np.float32))

    assert build_dataset("t2i_laion_coco", [lines], SIZE, None)[1, 0].text == "y"
    paths = {"t5_feat_path": folder / "features"}
    dataset = build_dataset("t2i_laion_coco", [lines], SIZE, 8, **paths)
    assert dataset[0, 0].problem is None
    assert "1.npy and" in dataset[1, 0].problem and "both" in dataset[1, 0].problem
    assert "line 3: no text features at" in dataset[2, 0].problem and "z.npy" in dataset[2, 0].problem
    paths["short_t5_feat_path"] = folder / "short"
    dataset = build_dataset("t2i_laion_coco", [lines], SIZE, 8, **paths)
    share = np.mean([float(dataset[0, seed].text.embeddings[0, 0]) for seed in range(300)])
    assert 0.2 < share < 0.4


@pytest.mark.parametrize(("name", "white"), [("t2i_laion_coco", False), ("t2i", True)])
def test_nep_trims_white_borders_and_llamagen_does_not(folder, name, white):
    lines = folder / "lines"
    lines.mkdir()
    page = Image.new("RGB", (SIZE, SIZE), (255, 255, 255))
    page.paste(picture().resize((SIZE // 2, SIZE // 2)), (SIZE // 4, SIZE // 4))
    page.save(lines / "a.png")
    write_lines(lines / "part.jsonl", {"image_path": "a.png", "text": ["a"]})
    image = build_dataset(name, [lines], SIZE, None)[0, 0].image
    assert torch.equal(image, image_to_tensor(page)) == white
    assert (image[:, 0, 0] == 1).all() == white


def test_edit_samples(folder):
    dataset = editing(folder, EDIT, {**EDIT, "mask_image": "some/NONE"}, feature_width=8, center_crop=True)
    sample = dataset[0, 3]
    assert sample.problem is None and sample.text.valid.tolist() == [True] * 3 and sample.seed == 3
    # The region is cell 1 exactly; the bicubic step spreads it by half a pixel into every neighbour.
    assert sample.edit_mask.nonzero().flatten().tolist() == [0, 1, 2, 4, 5, 6]
    assert dataset[1, 0].edit_mask.all() and len(dataset[1, 0].edit_mask) == 16
    batch = collate_samples([sample, dataset[1, 0]])
    assert batch.source.shape == batch.edited.shape == (2, 3, SIZE, SIZE) and batch.edit_mask.shape == (2, 16)
    exact = editing(folder, EDIT, mask_rule="exact", center_crop=True)
    assert exact[0, 3].edit_mask.nonzero().flatten().tolist() == [1] and exact[0, 3].text == "a red thing"
    full = editing(folder, EDIT, full_mask=True, text_field="instruction")
    assert full[0, 0].edit_mask.all() and full[0, 0].text == "make it red"


def test_edit_samples_are_functions_of_index_and_seed(folder):
    dataset = editing(folder, {**EDIT, "mask_image": None}, random_flip=True, grid=4)
    picture(0, 40).resize((80, 40)).save(folder / "a.png")
    picture(1, 40).resize((80, 40)).save(folder / "b.png")
    first, again, other = dataset[0, 1], dataset[0, 1], dataset[0, 2]
    assert torch.equal(first.source, again.source) and torch.equal(first.edited, again.edited)
    assert not torch.equal(first.source, other.source)


def test_mask_dilation_is_drawn_for_half_of_the_samples(folder):
    dataset = editing(folder, EDIT, mask_rule="exact", mask_dilation=4)
    cells = [int(dataset[0, seed].edit_mask.sum()) for seed in range(200)]
    # The region is one 4x4 cell in the top row; widened by 1 to 4 pixels it reaches 2x3 cells.
    assert set(cells) == {1, 6}
    assert 0.3 < np.mean(np.array(cells) == 6) < 0.5


BAD_EDITS = {
    "missing image": ({**EDIT, "file_name": "none.png"}, "none.png: no such file"),
    "mask of another size": ({**EDIT, "mask_image": "small.png"}, "mask is 8x8 but its image is 16x16"),
    "edited of another size": (
        {**EDIT, "edited_image": "small.png"},
        "edited image is 8x8 but the source is 16x16",
    ),
    "empty mask": ({**EDIT, "mask_image": "empty.png"}, "edits.jsonl line 1: the 16x16 mask marks no pixel"),
    "lacks a key": ({key: EDIT[key] for key in EDIT if key != "mask_image"}, "lacks the key 'mask_image'"),
    "no text": (
        {**EDIT, "target_caption_t5_path": None, "output_caption": None},
        "--text-field target_caption",
    ),
    "narrow features": (
        {**EDIT, "target_caption_t5_path": "narrow.npy"},
        "narrow.npy: text features of width 7",
    ),
    "not JSON": ("nonsense", "edits.jsonl line 1: not JSON"),
}


@pytest.mark.parametrize("name", BAD_EDITS)
def test_bad_edits_are_problems(folder, name):
    line, reason = BAD_EDITS[name]
    sample = editing(folder, line, feature_width=8)[0, 0]
    assert reason in sample.problem
    assert not (sample.source.any() or sample.edited.any() or sample.edit_mask.any())
    assert not collate_samples([sample]).valid.any()


def test_ultraedit_parquet(folder):
    def cells(*names):
        return [{"bytes": (folder / name).read_bytes(), "path": name} for name in names]

    columns = {
        "source_image": cells(*["a.png"] * 4),
        "edited_image": cells(*["b.png"] * 3, "narrow.npy"),
        "mask_image": cells("mask.png", "empty.png", "mask.png", "mask.png"),
        "edit_prompt": ["p0", "p1", "p2", "p3"],
        "source_caption": ["s0", "s1", "s2", "s3"],
        "target_caption": ["t0", "t1", None, "t3"],
    }
    file = folder / "part.parquet"
    pq.write_table(pa.table(columns), file, row_group_size=2)
    dataset = build_dataset("editing_ultraedit", [file], SIZE, None, grid=4, mask_rule="exact")
    assert len(dataset) == 4
    assert dataset[0, 0].text == "t0" and dataset[0, 0].edit_mask.nonzero().tolist() == [[1]]
    assert "row 1: the 16x16 mask marks no pixel" in dataset[1, 0].problem
    assert "row 2: no text for --text-field target_caption" in dataset[2, 0].problem
    assert "part.parquet row 3 edited_image: not an image" in dataset[3, 0].problem

    del columns["mask_image"]
    pq.write_table(pa.table(columns), folder / "free.parquet")
    options = {"grid": 4, "text_field": "instruction"}
    free = build_dataset("editing_ultraedit", [folder / "free.parquet"], SIZE, None, **options)
    assert free[2, 0].text == "p2" and free[2, 0].edit_mask.all()
    (folder / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="bad.parquet: cannot be read as a parquet file"):
        build_dataset("editing_ultraedit", [folder / "bad.parquet"], SIZE, None, grid=4)


NOT_UTF8 = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], np.int32).tobytes()), pa.py_buffer(b"\xffx")]
)
"""Two texts, of which the first is no UTF-8."""


@pytest.mark.parametrize("name", ["part.parquet", "a:b.parquet", os.fsdecode(b"\xff.parquet")])
def test_a_parquet_text_that_is_no_utf8_is_named_whatever_the_files_name(folder, monkeypatch, name):
    monkeypatch.chdir(folder)  # Arrow takes relative names with a colon for addresses
    cells = pa.array([(folder / "a.png").read_bytes()] * 2)
    columns = {"source_image": cells, "edited_image": cells, "edit_prompt": NOT_UTF8}
    with open(name, "wb") as file:
        pq.write_table(pa.table(columns), file)
    data = build_dataset("editing_ultraedit", [name], SIZE, None, grid=4, text_field=None)
    assert "parquet row 0: 'edit_prompt' cannot be read: 'utf-8' codec" in data[0, 0].problem
    assert (data[1, 0].problem, data[1, 0].text) == (None, "x")
    (rows,) = export_rows_of(Path(name))
    assert [row.values["edit_prompt"] for row in rows] == [None, "x"] and rows[0].problem


def export_rows_of(file: Path) -> list[list[Row]]:
    columns = ("source_image", "edited_image", "edit_prompt")
    return [list(_read_rows(path, 0, 0, columns, 2)) for path in find_parquet([file], columns)]


def test_parquet_tables_of_test_sets_name_what_they_cannot_read(folder):
    image, texts = pa.array([b"x", b"x"]), pa.array(["a", "b"])
    gedit = {name: texts for name in ("key", "task_type", "instruction_language")}
    gedit |= {"input_image_raw": image, "input_image": image, "instruction": NOT_UTF8}
    pq.write_table(pa.table(gedit), folder / "g.parquet")
    with pytest.raises(UserError, match="g.parquet row 0: 'instruction' cannot be read"):
        read_gedit(folder)
    emu = {name: texts for name in ("instruction", "task", "split", "hash", "output_caption")}
    for idx, caption, message in (
        (pa.array([True, False]), texts, "row 0: idx must be a whole number of its own, got True"),
        (pa.array([-1, 2]), texts, "row 0: idx must be a whole number of its own, got -1"),
        (pa.array([1, 2]), pa.array([5, 6]), r"row 0 \(idx 1\): input_caption must be a text, got 5"),
    ):
        pq.write_table(pa.table(emu | {"image": image, "idx": idx, "input_caption": caption}), folder / "e")
        with pytest.raises(UserError, match=message):
            read_emu_parquet([folder / "e"])
    twice = pa.Table.from_arrays([image, image, texts, texts], ["image", "idx", "task", "task"])
    pq.write_table(twice, folder / "twice")
    with pytest.raises(UserError, match=r"twice: has the column\(s\) task twice; keep one of each"):
        find_parquet([folder / "twice"], ("image",))


@pytest.mark.parametrize("text", [" ", ["", "a cat"], ["\n"], [1]])
def test_captions_that_say_nothing_are_problems(folder, text):
    line = {"image_path": "a.png", "text": text}
    (sample,) = (build_dataset("t2i_cc12m", [write_lines(folder / "t.jsonl", line)], SIZE, None)[0, 0],)
    assert "t.jsonl line 1: 'text' must" in sample.problem
    if isinstance(text, str):
        assert (
            "'edit_prompt' must say something" in editing(folder, EDIT | {"edit_prompt": text})[0, 0].problem
        )


def test_build_refuses_what_it_does_not_know(folder):
    with pytest.raises(UserError, match="unknown dataset 'imagenet'; choose one of t2i_cc12m"):
        build_dataset("imagenet", [folder], SIZE, None)
    with pytest.raises(UserError, match="all .jsonl or all .parquet"):
        build_dataset("editing_ultraedit", [folder / "a.csv"], SIZE, None, grid=4)
    file = write_lines(folder / "edits.jsonl", EDIT)
    with pytest.raises(UserError, match="unknown text field 'caption'"):
        JsonlEditRecords([file], "caption")
