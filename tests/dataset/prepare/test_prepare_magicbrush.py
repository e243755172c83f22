"""MagicBrush: the test folder's check, white masks and text features; a training set of the hub's files."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import run_program
from pictures import picture, png, square_mask
from PIL import Image
from preparation_data import Killed, cell, encoded, kill_after, no_space, read_lines, snapshot, write_parquet

from dataset.build import build_dataset
from dataset.prepare.flags import PrepareMagicBrushConfig
from dataset.prepare.magicbrush import prepare_magicbrush
from dataset.records.masks import load_edit_region, load_magicbrush_mask
from dataset.testsets.magicbrush import iterate_turns, read_sessions
from language.small_encoder import make_small_t5
from language.t5 import T5Encoder
from language.text_features import load_text_features
from runtime.config import parse
from runtime.distributed import distributed
from runtime.errors import UserError

IMAGES = ("source_img", "mask_img", "target_img")


def alpha_mask(seed: int = 0, size: int = 16) -> Image.Image:
    """The picture, transparent where `square_mask` is white."""
    image = picture(seed, size).convert("RGBA")
    image.putalpha(square_mask(size).point(lambda value: 255 - value))
    return image


@pytest.fixture
def root(tmp_path):
    """Two sessions, of 1 and 2 turns; the last mask is of another size."""
    sessions = {}
    for session_id, count in (("7", 1), ("12", 2)):
        folder = tmp_path / "images" / session_id
        folder.mkdir(parents=True)
        picture().save(folder / f"{session_id}-input.png")
        sessions[session_id] = []
        for k in range(1, count + 1):
            edit = {
                "input": f"{session_id}-output{k - 1}.png" if k > 1 else f"{session_id}-input.png",
                "mask": f"{session_id}-mask{k}.png",
                "output": f"{session_id}-output{k}.png",
                "instruction": f"a red star {k}",
            }
            alpha_mask(k, 16 * k).save(folder / edit["mask"])
            picture(k).save(folder / edit["output"])
            sessions[session_id].append(edit)
    (tmp_path / "edit_sessions.json").write_text(json.dumps(sessions))
    return tmp_path


@pytest.fixture
def notices(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("nep"), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


def run(*flags: object) -> None:
    words = [*flags, "--num-workers", 1, "--device", "cpu"]
    with distributed("cpu") as process:
        prepare_magicbrush(parse(PrepareMagicBrushConfig, [str(word) for word in words]), process)


def test_check(root, notices):
    before = snapshot(root)
    run("--magicbrush-path", root)
    assert "2 sessions (1 of 1 turn(s), 1 of 2 turn(s)), 3 edits" in notices.text
    assert "not the published test set: that has 535 sessions (216/120/199), 1053 edits" in notices.text
    assert snapshot(root) == before, "a check writes nothing"


def test_check_names_what_is_wrong(root):
    (root / "images" / "7" / "7-output1.png").write_bytes(b"x")
    picture(3).convert("RGBA").save(root / "images" / "12" / "12-mask1.png")
    alpha_mask(2).resize((64, 16)).save(root / "images" / "12" / "12-mask2.png")
    with pytest.raises(UserError, match="3 of 3 items cannot be used"):
        run("--magicbrush-path", root)
    bad = (root / "magicbrush_bad_items.txt").read_text()
    for reason in (
        "7-output1.png: not an image",
        "12-mask1.png: the mask marks nothing",
        "12-mask2.png: the mask is ",
    ):
        assert reason in bad
    (root / "images" / "12" / "12-mask2.png").unlink()
    with pytest.raises(UserError, match="names 1 missing file.*12-mask2.png"):
        run("--magicbrush-path", root)


def test_white_masks(root, notices):
    black = Image.fromarray(np.where(np.asarray(square_mask())[..., None] > 0, 0, np.asarray(picture(4)) + 1))
    black.save(root / "images" / "7" / "7-mask1.png")
    run("--magicbrush-path", root, "--write-white-masks")
    turns = list(iterate_turns(read_sessions(root)))
    for turn in turns:
        white = turn.mask_path.with_name(f"{turn.mask_path.stem}_white.png")
        assert torch.equal(load_edit_region(white), load_magicbrush_mask(turn.mask_path))
        assert Image.open(white).mode == "L" and set(np.unique(np.asarray(Image.open(white)))) == {0, 255}
    assert "1 masks have no transparent pixels" in notices.text
    before = snapshot(root)
    (root / "images" / "7" / ".7-mask1_white.png.99.tmp").write_bytes(b"half")
    run("--magicbrush-path", root, "--write-white-masks")
    assert snapshot(root) == before, "a second run only removes leftovers"
    square_mask().transpose(Image.Transpose.ROTATE_180).save(white)
    with pytest.raises(UserError, match="1 of 3 items"):
        run("--magicbrush-path", root, "--write-white-masks")


def test_white_masks_resume_and_need_space(root, monkeypatch):
    with monkeypatch.context() as patch:
        no_space(patch)
        with pytest.raises(UserError, match="are needed"):
            run("--magicbrush-path", root, "--write-white-masks")
    with monkeypatch.context() as patch:
        kill_after(patch, "runtime.pictures", 1)
        with pytest.raises(Killed):
            run("--magicbrush-path", root, "--write-white-masks")
    assert len(list(root.rglob("*_white.png"))) == 1
    run("--magicbrush-path", root, "--write-white-masks")
    assert len(list(root.rglob("*_white.png"))) == 3 and not list(root.rglob("*.tmp"))


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    make_small_t5(["a red star 1 2", "a green circle"], folder, 16)
    return folder


def check_features(root: Path, t5: Path) -> None:
    turns = list(iterate_turns(read_sessions(root, with_features=True)))
    expected = T5Encoder(t5).encode([turn.instruction for turn in turns])
    assert [str(turn.text_feature_path.relative_to(root)) for turn in turns] == [
        "t5/7_1.npy", "t5/12_1.npy", "t5/12_2.npy"]  # fmt: skip
    for turn, features in zip(turns, expected, strict=True):
        stored = load_text_features(turn.text_feature_path, 16).embeddings
        torch.testing.assert_close(stored, features.embeddings, atol=1e-5, rtol=0)


def test_text_features(root, t5):
    flags = (
        "--magicbrush-path",
        root,
        "--t5-path",
        t5.parent,
        "--t5-model-type",
        "small",
        "--precision",
        "none",
    )
    run(*flags, "--batch-size", 2)
    check_features(root, t5)
    before = snapshot(root / "t5")
    (root / "t5" / "12_1.npy").unlink()
    run(*flags)
    check_features(root, t5)
    assert snapshot(root / "t5")["7_1.npy"] == before["7_1.npy"], "what is there is kept"
    with pytest.raises(UserError, match="other precision"):
        run(*flags[:-1], "bf16")
    content = json.loads((root / "edit_sessions.json").read_text())
    written = json.loads((root / "edit_sessions_with_instruction_t5.json").read_text())
    for session_id, edits in content.items():
        for edit, other in zip(edits, written[session_id], strict=True):
            assert {**edit, "instruction": 0} == {**other, "instruction": 0}


def test_text_features_on_two_ranks(root, t5):
    flags = ("--magicbrush-path", root, "--t5-path", t5, "--precision", "none", "--device", "cpu")
    run_program("dataset/prepare_magicbrush.py", *flags, ranks=2)
    check_features(root, t5)


def hub_row(number: int, mask: bytes | None = None, **changes) -> dict:
    values = {
        "img_id": f"../{number}",
        "turn_index": 1,
        "source_img": cell(encoded(picture(number), "JPEG")),
        "mask_img": cell(mask or png(alpha_mask(number, 32))),
        "instruction": f"do {number}",
        "target_img": cell(png(picture(100 + number))),
    }
    return values | changes


def test_hub_files(tmp_path):
    rows = [hub_row(0), hub_row(1), hub_row(2)]
    write_parquet(tmp_path / "data" / "train-0.parquet", rows, IMAGES)
    flags = ("--hub-parquet", tmp_path / "data", "--output-dir", tmp_path / "out")
    run(*flags)
    lines = read_lines(tmp_path / "out" / "magicbrush.jsonl")
    assert lines[1] == {
        "file_name": "images/train-0/000001_source.jpg",
        "edited_image": "images/train-0/000001_edited.png",
        "mask_image": "masks/train-0/000001.png",
        "edit_prompt": "do 1",
        "img_id": "../1",
        "turn_index": 1,
    }
    region = load_edit_region(tmp_path / "out" / lines[1]["mask_image"], (16, 16))
    expected = torch.from_numpy(np.asarray(square_mask(32).resize((16, 16), Image.Resampling.NEAREST)) / 255)
    assert torch.equal(region, expected.float()), "white = edit, at the source's size"
    dataset = build_dataset("editing_ultraedit", [tmp_path / "out" / "magicbrush.jsonl"], 16, None, grid=4,
                            text_field="instruction")  # fmt: skip
    samples = [dataset[index, 0] for index in range(3)]
    assert [(sample.problem, sample.text) for sample in samples] == [(None, f"do {i}") for i in range(3)]
    before = snapshot(tmp_path / "out")
    run(*flags)
    assert snapshot(tmp_path / "out") == before


def test_hub_bad_rows_and_resume(tmp_path, monkeypatch):
    rows = [
        hub_row(0),
        hub_row(1, mask=png(picture(3, 16).point(lambda v: v + 1))),
        hub_row(2, instruction=None),
        hub_row(3),
    ]
    write_parquet(tmp_path / "train-0.parquet", rows, IMAGES)
    flags = ("--hub-parquet", tmp_path / "train-0.parquet", "--output-dir", tmp_path / "out")
    with monkeypatch.context() as patch:
        kill_after(patch, "dataset.prepare.pictures", 4)
        with pytest.raises(Killed):
            run(*flags)
    with pytest.raises(UserError, match="2 of 4 items"):
        run(*flags)
    bad = (tmp_path / "out" / "magicbrush_preparation" / "bad_items.txt").read_text()
    assert "row 1: the mask marks nothing to edit" in bad and "row 2: 'instruction' must be a text" in bad
    run(*flags, "--bad-sample-budget", 0.5)
    assert [line["edit_prompt"] for line in read_lines(tmp_path / "out" / "magicbrush.jsonl")] == [
        "do 0",
        "do 3",
    ]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "give either --magicbrush-path"),
        (["--magicbrush-path", "a", "--hub-parquet", "b"], "give either"),
        (["--hub-parquet", "b"], "needs --output-dir"),
    ],
)
def test_wrong_use(words, reason):
    with pytest.raises(UserError, match=reason):
        run(*words)


@pytest.mark.parametrize(
    "values",
    [pa.array([b"1", b"2"]), pa.array([1, 1 << 45], pa.timestamp("s")), pa.array([{"a": b"1"}] * 2)],
)
def test_hub_ids_that_a_list_cannot_hold_are_named_by_row(tmp_path, values):
    path = write_parquet(tmp_path / "data" / "train-0.parquet", [hub_row(0), hub_row(1)], IMAGES)
    pq.write_table(pq.read_table(path).set_column(0, "img_id", values), path)
    with pytest.raises(UserError, match="bad_items.txt"):
        run("--hub-parquet", tmp_path / "data", "--output-dir", tmp_path / "out")
    named = (tmp_path / "out" / "magicbrush_preparation" / "bad_items.txt").read_text()
    assert all(f"{path} row {number}: 'img_id'" in named for number in range(2))
