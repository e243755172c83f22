"""Masks in another range than their type's: refused by name, by every reader and by the API alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import SIZE, picture, png, square_mask
from PIL import Image
from preparation_data import write_parquet

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.session import EditSession
from autoregressive.sample.file_edits import read_jobs, require_usable
from autoregressive.sample.flags import SampleEditing, SampleScaled
from autoregressive.sample.scaling_run import read_lines
from dataset.build import build_dataset
from dataset.prepare.flags import PrepareUltraEditConfig
from dataset.prepare.ultraedit import prepare_ultraedit
from dataset.records.masks import edit_region, load_edit_region, load_magicbrush_mask, marked
from evaluations.images import load_region
from runtime.config import parse
from runtime.errors import UserError

BYTES = np.array(square_mask())
REGION = BYTES > 0
ONES = REGION.astype(np.uint8)
PALETTE = Image.fromarray(ONES, "P")
PALETTE.putpalette([0, 0, 0, 1, 1, 1])
CLEAR = Image.fromarray(BYTES).convert("RGBA")
CLEAR.putalpha(Image.fromarray(1 - ONES))

# The mask, its highest value and its range's end, and the fix.
WRONG = {
    "bytes": (ONES, "to 1, but those of uint8 from 0 to 255", "multiply it by 255"),
    "labels": (ONES * 7, "to 7, but those of uint8 from 0 to 255", "bring it to 0 to 255"),
    "tensor": (torch.tensor(ONES), "to 1, but those of uint8 from 0 to 255", "multiply it by 255"),
    "grey": (Image.fromarray(ONES), "to 1, but those of uint8 from 0 to 255", "multiply it by 255"),
    "colour": (Image.fromarray(ONES).convert("RGB"), "to 1, but", "multiply it by 255"),
    "opaque": (Image.fromarray(ONES).convert("LA"), "to 1, but", "multiply it by 255"),
    "palette": (PALETTE, "to 1, but", "multiply it by 255"),
    "opacity": (CLEAR, "its opacity: its values go from 0 to 1, but", "multiply it by 255"),
    "deep": (BYTES.astype(np.uint16), "to 255, but those of uint16 from 0 to 65535", "multiply it by 257"),
    "deep ones": (ONES.astype(np.uint16), "to 1, but .* from 0 to 65535", "multiply it by 65535"),
    "deep grey": (Image.fromarray(BYTES.astype(np.uint16)), "to 255, but .* to 65535", "multiply it by 257"),
    "deeper grey": (Image.fromarray(BYTES.astype(np.int32)), "to 255, but .* to 65535", "multiply it by 257"),
    "signed": (BYTES.astype(np.int16), "to 255, but those of int16 .* 32767", "bring it to 0 to 32767"),
    "wrapped": (BYTES.astype(np.int8), "from -1 to 0, but those of int8 .* 127", "bring it to 0 to 127"),
    "wide labels": (ONES.astype(np.int64) * 2, "to 2, but those of int64", "bring it to 0 to 255"),
    "huge": (ONES.astype(np.int64) << 20, "to 1.04858e\\+06, but those of int64", "bring it to 0 to 65535"),
    "float bytes": (BYTES / 1.0, "to 255, but those of float64 from 0 to 1", "divide it by 255"),
    "overshot bytes": (np.where(REGION, 260.1, -5.1), "from -5.1 to 260.1, but", "divide it by 255"),
    "float deep": (torch.tensor(BYTES).float() * 257, "to 65535, but those of float32", "divide it by 65535"),
    "float image": (Image.fromarray(BYTES.astype(np.float32)), "to 255, but", "divide it by 255"),
    "shrunk": (torch.tensor(ONES) / 255, "to 0.00392157, but", "multiply it by 255"),
    "centred": (np.where(REGION, 1.0, -1.0), "from -1 to 1, but", "bring it to 0 to 1"),
    "not finite": (np.where(REGION, np.nan, 0), "from nan to nan, but", "bring it to 0 to 1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_mask_in_another_range_is_refused_with_its_values_and_the_fix(kind):
    mask, values, fix = WRONG[kind]
    with pytest.raises(UserError, match=f"^the mask.*{values}.*, and above half of that is edited: {fix}$"):
        edit_region(mask)


@pytest.mark.parametrize(
    "mask",
    [
        ONES.astype(np.int64),
        torch.tensor(REGION),
        BYTES.astype(np.int32),
        BYTES.astype(np.uint32) * 257,
        BYTES.astype(np.uint16) * 257,
        torch.tensor(BYTES.astype(np.uint16) * 257),
        np.where(REGION, 127, 0).astype(np.int8),
        np.where(REGION, 1.2, -0.2).astype(np.float16),
        np.where(REGION, 200, 20).astype(np.uint8),
        (BYTES.astype(np.uint16) * 257).astype(">u2"),
        Image.fromarray(BYTES.astype(np.int32) * 257),
        Image.fromarray(BYTES).convert("CMYK"),
        Image.fromarray(BYTES).convert("LA"),
    ],
    ids=lambda mask: f"{type(mask).__name__}-{mask.mode if isinstance(mask, Image.Image) else mask.dtype}",
)
def test_masks_in_their_range_mark_what_they_show(mask):
    region = edit_region(mask)
    assert region.dtype == torch.float32 and 0 <= region.min() and region.max() <= 1
    assert (marked(region).numpy() == REGION).all()


def test_half_of_the_range_decides_in_files_as_in_arrays(tmp_path):
    for end, kind in ((255, np.uint8), (65535, np.uint16)):
        array = np.array([[0, end // 2, end // 2 + 1, end]], kind)
        Image.fromarray(array).save(tmp_path / "mask.png")
        wanted = [[False, False, True, True]]
        assert marked(edit_region(array)).tolist() == wanted
        assert marked(load_edit_region(tmp_path / "mask.png")).tolist() == wanted
        assert load_region(tmp_path / "mask.png").tolist() == wanted


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint16, np.int64, np.float32])
def test_nothing_but_zeros_marks_nothing(kind):
    assert not edit_region(np.zeros((4, 4), kind)).any()


@pytest.mark.parametrize("mode", ["1", "L", "RGBA", "I;16", "I", "F"])
def test_a_mask_without_pixels_is_one_of_another_size(pipeline, mode):
    for mask in (Image.new(mode, (0, 0)), np.zeros((0, 0)), torch.zeros(0, 3)):
        with pytest.raises(UserError, match=r"the mask has the shape \(0, [03]\), the image is 16x16"):
            pipeline.edit(picture(), "make it red", mask)


FILES = {
    "L01.png": Image.fromarray(ONES),
    "L01.bmp": Image.fromarray(ONES),
    "L01.webp": Image.fromarray(ONES).convert("RGB"),
    "deep.png": Image.fromarray(BYTES.astype(np.uint16)),
    "palette.png": PALETTE,
    "opacity.png": CLEAR,
}


@pytest.fixture
def folder(tmp_path) -> Path:
    picture(0).save(tmp_path / "in.png")
    picture(1).save(tmp_path / "b.png")
    for name, mask in FILES.items():
        mask.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_every_reader_of_files_refuses_them_by_name(folder, name):
    words = f"{name}.*: its values go from 0 to (1|255), but .*: multiply it by (255|257)"
    path = str(folder / name)
    with pytest.raises(UserError, match=words):
        load_edit_region(path, (SIZE, SIZE))
    flags = {"image": str(folder / "in.png"), "mask": path, "prompt": "make it red"}
    config = SampleEditing(**flags)
    with pytest.raises(UserError, match=words):
        require_usable(read_jobs(config), config)
    (folder / "list.jsonl").write_text(json.dumps({**flags, "output": "o.png"}))
    config = SampleEditing(list=str(folder / "list.jsonl"))
    with pytest.raises(UserError, match=f"list.jsonl line 1: .*{words}"):
        require_usable(read_jobs(config), config)
    (line,) = read_lines(SampleScaled(task_list=str(folder / "list.jsonl")))
    with pytest.raises(UserError, match=words):
        line.load(0)
    if name == "opacity.png":
        with pytest.raises(UserError, match=words):
            load_magicbrush_mask(path)
    else:
        with pytest.raises(UserError, match=words):
            load_region(path)


@pytest.mark.parametrize("name", FILES)
def test_training_lists_and_tables_refuse_them_by_name(folder, name):
    edit = {"file_name": "in.png", "edited_image": "b.png", "mask_image": name, "edit_prompt": "make it red"}
    (folder / "edits.jsonl").write_text(json.dumps({**edit, "output_caption": "a red thing"}))
    sample = build_dataset("editing_ultraedit", [folder / "edits.jsonl"], SIZE, None, grid=4)[0, 0]
    assert f"{name}" in sample.problem and "multiply it by" in sample.problem

    row = {
        "source_image": {"bytes": png(picture(0)), "path": None},
        "edited_image": {"bytes": png(picture(1)), "path": None},
        "mask_image": {"bytes": (folder / name).read_bytes(), "path": None},
        "edit_prompt": "make it red",
        "target_caption": "a red thing",
    }
    images = ("source_image", "edited_image", "mask_image")
    write_parquet(folder / "data" / "a.parquet", [row], images)
    direct = build_dataset("editing_ultraedit", [folder / "data" / "a.parquet"], SIZE, None, grid=4)[0, 0]
    assert "mask_image" in direct.problem and "multiply it by" in direct.problem
    words = ["--data-path", folder / "data", "--output-dir", folder / "out", "--num-workers", 1]
    with pytest.raises(UserError):
        prepare_ultraedit(parse(PrepareUltraEditConfig, [*map(str, words), "--bad-sample-budget", "0"]))
    (bad,) = (folder / "out").rglob("bad_items.txt")
    assert "mask_image" in bad.read_text() and "multiply it by" in bad.read_text()


@pytest.fixture(scope="module")
def pipeline(gpt_ckpts, vq_ckpt, t5_dir) -> EditingPipeline:
    return EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir)


def test_the_api_refuses_what_the_programs_refuse(pipeline):
    image = picture()
    for mask in (ONES, torch.tensor(ONES), BYTES.astype(np.uint16), BYTES / 1.0, Image.fromarray(ONES)):
        with pytest.raises(UserError, match="the mask: its values go from 0 to (1|255), but those of"):
            pipeline.edit(image, "make it red", mask)
        with pytest.raises(UserError, match="mask 1: its values go from 0 to (1|255), but those of"):
            pipeline.edit([image, image], ["a", "b"], [None, mask])
        with pytest.raises(UserError, match="the mask: its values go from 0 to (1|255), but those of"):
            EditSession(pipeline, image).edit("make it red", mask)
    for bad, kind in (
        (np.full((SIZE, SIZE), "x"), "of <U1"),
        (torch.ones(SIZE, SIZE) * 1j, "of torch.complex64"),
    ):
        with pytest.raises(UserError, match=f"the mask is {kind}: give numbers"):
            pipeline.edit(image, "make it red", bad)
