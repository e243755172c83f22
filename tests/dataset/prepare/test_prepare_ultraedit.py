"""UltraEdit's parquet files as list, images and masks; with it the machinery of all preparation programs."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, run_program
from pictures import picture, png, square_mask
from PIL import Image
from preparation_data import Killed, cell, encoded, kill_after, no_space, read_lines, snapshot, write_parquet

from dataset.build import build_dataset
from dataset.prepare.flags import PrepareUltraEditConfig
from dataset.prepare.ultraedit import prepare_ultraedit
from dataset.records.images import load_image
from dataset.records.masks import load_edit_region
from language.feature_extraction import extract
from language.flags import ExtractConfig
from language.small_encoder import make_small_t5
from language.t5 import T5Encoder
from runtime.config import parse
from runtime.distributed import distributed
from runtime.errors import UserError

IMAGES = ("source_image", "edited_image", "mask_image")
WHITE = Image.new("L", (16, 16), 255)


def row(number: int, mask: Image.Image | None = None, **changes) -> dict:
    values = {
        "source_image": cell(png(picture(number))),
        "edited_image": cell(encoded(picture(100 + number), "JPEG")),
        "mask_image": cell(png(mask or square_mask())),
        "edit_prompt": f"do {number}",
        "source_caption": f"before {number}",
        "target_caption": f"after {number}",
    }
    return values | changes


def run(folder: Path, output: Path | None = None, *flags: object) -> Path:
    words = ["--data-path", folder, "--output-dir", output or folder / "out", "--num-workers", 1, *flags]
    return prepare_ultraedit(parse(PrepareUltraEditConfig, [str(word) for word in words]))


@pytest.fixture
def data(tmp_path):
    """Five rows in two files and three row groups; row 1 is free-form."""
    write_parquet(tmp_path / "data" / "a-0.parquet", [row(0), row(1, WHITE), row(2)], IMAGES)
    write_parquet(tmp_path / "data" / "b-0.parquet", [row(3), row(4)], IMAGES)
    return tmp_path / "data"


def test_list_images_and_masks(data, tmp_path):
    out = tmp_path / "out"
    listing = run(data, out)
    lines = read_lines(listing)
    assert lines[0] == {
        "file_name": "images/a-0/000000_source.png",
        "edited_image": "images/a-0/000000_edited.jpg",
        "mask_image": "masks/a-0/000000.png",
        "edit_prompt": "do 0",
        "input_caption": "before 0",
        "output_caption": "after 0",
    }
    assert [line["edit_prompt"] for line in lines] == [f"do {i}" for i in range(5)]
    assert [line["mask_image"] for line in lines].count("NONE") == 1 and lines[1]["mask_image"] == "NONE"
    assert (out / lines[2]["file_name"]).read_bytes() == png(picture(2)), "bytes must pass through unchanged"
    assert (out / lines[2]["edited_image"]).read_bytes() == encoded(picture(102), "JPEG")
    expected = load_edit_region(write_png(tmp_path / "m.png", square_mask()))
    assert torch.equal(load_edit_region(out / lines[3]["mask_image"]), expected)
    assert sorted(path.name for path in out.iterdir()) == [
        "images", "masks", "ultraedit.jsonl", "ultraedit_preparation"]  # fmt: skip


def write_png(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


@pytest.mark.parametrize("field", ["instruction", "target_caption"])
def test_training_reads_it_like_the_parquet_itself(data, field):
    listing = run(data)
    prepared = build_dataset("editing_ultraedit", [listing], 16, None, grid=4, text_field=field)
    files = sorted(data.glob("*.parquet"))
    direct = build_dataset("editing_ultraedit", files, 16, None, grid=4, text_field=field)
    for index in range(len(direct)):
        a, b = prepared[index, 7], direct[index, 7]
        assert a.problem is None and a.text == b.text
        assert torch.equal(a.source, b.source) and torch.equal(a.edited, b.edited)
        assert torch.equal(a.edit_mask, b.edit_mask)


def small_mask(width: int, height: int) -> Image.Image:
    mask = Image.new("L", (width, height))
    mask.paste(255, (0, 0, width // 2, height // 2))
    return mask


@pytest.mark.parametrize(
    ("mask", "refused"),
    [
        (None, False),
        (cell(png(small_mask(8, 8))), False),
        (cell(png(small_mask(32, 32))), False),
        (cell(png(WHITE.resize((8, 8)))), False),
        (cell(png(Image.new("L", (8, 8)))), True),
        (cell(png(small_mask(8, 4))), True),
        (cell(None), True),
        (cell(b"no image"), True),
    ],
    ids=["null", "half", "double", "half white", "half black", "other shape", "no bytes", "damaged"],
)
def test_masks_mean_the_same_in_both(tmp_path, mask, refused):
    table = tmp_path / "a.parquet"
    write_parquet(table, [row(0), row(1, mask_image=mask)], IMAGES)
    direct = build_dataset("editing_ultraedit", [table], 16, None, grid=4)
    listing = run(table, tmp_path / "out", "--bad-sample-budget", 0.5)
    assert len(read_lines(listing)) == (1 if refused else 2)
    sample = direct[1, 7]
    assert (sample.problem is not None) == refused, sample.problem
    if not refused:
        prepared = build_dataset("editing_ultraedit", [listing], 16, None, grid=4)[1, 7]
        assert prepared.problem is None and torch.equal(prepared.source, sample.source)
        assert torch.equal(prepared.edit_mask, sample.edit_mask)


@pytest.mark.parametrize(
    ("column", "text", "refused"),
    [
        *[(column, text, True) for column in ("edit_prompt", "source_caption", "target_caption")
          for text in ("", "  ", "\n")],
        ("edit_prompt", None, True), ("source_caption", None, False), ("target_caption", None, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("field", ["instruction", "target_caption"])
def test_blank_texts_mean_the_same_in_both(tmp_path, column, text, refused, field):
    """An absent caption is no text of the row, a blank one is a row to mend."""
    table = write_parquet(tmp_path / "a.parquet", [row(0), row(1, **{column: text})], IMAGES)
    direct = build_dataset("editing_ultraedit", [table], 16, None, grid=4, text_field=field)[1, 7]
    listing = run(table, tmp_path / "out", "--bad-sample-budget", 0.5)
    bad = tmp_path / "out" / "ultraedit_preparation" / "bad_items.txt"
    if refused:
        assert len(read_lines(listing)) == 1 and direct.problem == bad.read_text().strip()
        assert f"a.parquet row 1: {column!r} must be a text" in direct.problem
        return
    prepared = build_dataset("editing_ultraedit", [listing], 16, None, grid=4, text_field=field)[1, 7]
    absent = column == field
    assert (direct.problem is not None) == (prepared.problem is not None) == absent
    for problem in (direct.problem, prepared.problem) if absent else ():
        assert f"--text-field {field}" in problem
    assert direct.text == prepared.text and torch.equal(direct.source, prepared.source)


def test_image_format(data):
    lines = read_lines(run(data, data / "png", "--image-format", "png"))
    assert {Path(line["edited_image"]).suffix for line in lines} == {".png"}
    decoded = np.asarray(load_image(data / "png" / lines[0]["edited_image"]))
    assert np.array_equal(decoded, np.asarray(Image.open(data / "png" / lines[0]["edited_image"])))
    jpg = read_lines(run(data, data / "jpg", "--image-format", "jpg"))
    assert Image.open(data / "jpg" / jpg[0]["file_name"]).format == "JPEG"
    assert (data / "jpg" / jpg[0]["edited_image"]).read_bytes() == encoded(picture(100), "JPEG")
    with pytest.raises(UserError, match="image_format 'jpg' instead of 'png'"):
        run(data, data / "jpg", "--image-format", "png")


def test_a_second_run_does_nothing(data, tmp_path):
    run(data, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    run(data, tmp_path / "out")
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize("writes", [0, 1, 4, 7, 9])
def test_resume_after_a_kill(data, tmp_path, monkeypatch, writes):
    """Dies in an image (0, 1, 4, 7) or in a later row group (9); finished row groups are not done again."""
    with monkeypatch.context() as patch:
        kill_after(patch, "dataset.prepare.pictures", writes)
        with pytest.raises(Killed):
            run(data, tmp_path / "out")
    assert not (tmp_path / "out" / "ultraedit.jsonl").exists()
    first_group = tmp_path / "out" / "images" / "a-0" / "000000_source.png"
    stamp = first_group.stat().st_mtime_ns if writes >= 7 else None
    run(data, tmp_path / "out")
    assert stamp is None or first_group.stat().st_mtime_ns == stamp, "a finished row group was done again"
    assert not list((tmp_path / "out").rglob("*.tmp")), "leftovers of the killed run"
    run(data, tmp_path / "whole")
    for path in (tmp_path / "whole").rglob("*.*"):
        if path.is_file() and "_preparation" not in str(path):
            other = tmp_path / "out" / path.relative_to(tmp_path / "whole")
            assert other.read_bytes() == path.read_bytes(), path


def test_resume_after_a_real_kill(tmp_path):
    """SIGKILL in the middle: every file is whole, and the next run ends with the same list."""
    rows = [row(number) for number in range(400)]
    write_parquet(tmp_path / "data" / "a.parquet", rows, IMAGES, row_group_size=20)
    out = tmp_path / "out"
    command = [sys.executable, "dataset/prepare_ultraedit.py", "--data-path", str(tmp_path / "data"),
               "--output-dir", str(out)]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob("ultraedit_preparation/a-*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list(out.glob("ultraedit_preparation/a-*.json")))
    assert 3 <= done < 20, done
    for path in out.glob("images/a/*.*"):
        load_image(path)
    assert len(read_lines(run(tmp_path / "data", out))) == 400


def test_what_changed_or_went_is_done_again(data, tmp_path):
    out = tmp_path / "out"
    run(data, out)
    (out / "images" / "a-0" / "000002_source.png").unlink()
    write_parquet(data / "b-0.parquet", [row(8), row(9)], IMAGES)
    write_parquet(data / "c-0.parquet", [row(5)], IMAGES)
    kept = (out / "images" / "a-0" / "000000_source.png").stat().st_mtime_ns
    lines = read_lines(run(data, out))
    assert [line["edit_prompt"] for line in lines] == ["do 0", "do 1", "do 2", "do 8", "do 9", "do 5"]
    assert (out / lines[2]["file_name"]).exists()
    assert (out / "images" / "a-0" / "000000_source.png").stat().st_mtime_ns == kept


def test_bad_rows_are_named_and_counted(tmp_path):
    small = png(picture(1, 8))
    rows = [
        row(0),
        row(1, source_image=cell(b"garbage")),
        row(2, edited_image=cell(png(picture(2))[:200])),
        row(3, source_image=cell(None)),
        row(4, source_image=cell(small)),
        row(5, mask=Image.new("L", (16, 16), 0)),
        row(6, mask_image=cell(png(Image.new("L", (16, 4), 255)))),
        row(7, edit_prompt=None),
        row(8, target_caption="  "),
        row(9, mask_image=cell(png(square_mask(32)))),
    ]
    write_parquet(tmp_path / "a.parquet", rows, IMAGES, row_group_size=3)
    with pytest.raises(UserError, match=r"8 of 10 items cannot be used.*--bad-sample-budget 0\.8\b"):
        run(tmp_path)
    assert not (tmp_path / "out" / "ultraedit.jsonl").exists()
    bad = (tmp_path / "out" / "ultraedit_preparation" / "bad_items.txt").read_text().splitlines()
    reasons = ["row 1 source_image: not an image", "row 2 edited_image: cannot be read",
               "row 3 source_image: no image bytes", "row 4: the source is 8x8 but the edited image is 16x16",
               "row 5: the mask marks nothing", "row 6: the mask is 16x4, of another shape",
               "row 7: 'edit_prompt' must be a text", "row 8: 'target_caption' must be a text"]  # fmt: skip
    assert len(bad) == 8
    for message, reason in zip(bad, reasons, strict=True):
        assert message.startswith(f"{tmp_path}/a.parquet {reason}"), message
    lines = read_lines(run(tmp_path, None, "--bad-sample-budget", "0.8"))
    assert [line["edit_prompt"] for line in lines] == ["do 0", "do 9"]
    region = load_edit_region(tmp_path / "out" / lines[1]["mask_image"])
    assert region.shape == (16, 16) and region.sum() == 4, "the mask must have its image's size"


def test_a_damaged_row_group_is_named_and_tried_again(data, tmp_path):
    file = data / "a-0.parquet"
    good = file.read_bytes()
    broken = bytearray(good)
    broken[4:400] = bytes(396)  # the pages at the beginning belong to the first row group
    file.write_bytes(broken)
    with pytest.raises(UserError, match="2 of 5 items cannot be used"):
        run(data, tmp_path / "out")
    listing = tmp_path / "out" / "ultraedit_preparation" / "bad_items.txt"
    assert "a-0.parquet: rows 0 to 1 cannot be read, download it again" in listing.read_text()
    file.write_bytes(good)
    assert len(read_lines(run(data, tmp_path / "out"))) == 5 and not listing.exists()


def test_other_files_are_refused(data, tmp_path):
    write_parquet(tmp_path / "other" / "x.parquet", [{"source_image": cell(b"")}], ("source_image",))
    with pytest.raises(UserError, match="x.parquet: lacks the column.*edited_image, edit_prompt"):
        run(tmp_path / "other")
    (tmp_path / "other" / "x.parquet").write_bytes((data / "a-0.parquet").read_bytes()[:-100])
    with pytest.raises(UserError, match="x.parquet: cannot be read as a parquet file"):
        run(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no"):
        run(tmp_path / "empty")
    write_parquet(data / "more" / "a-0.parquet", [row(0)], IMAGES)
    with pytest.raises(UserError, match="two input files are named 'a-0'"):
        run(data)
    (tmp_path / "out" / "images").mkdir(parents=True)
    (tmp_path / "out" / "images" / "mine.png").write_bytes(b"x")
    with pytest.raises(UserError, match="already holds images, not made by this program"):
        run(data, tmp_path / "out")


def test_too_little_space_is_refused_before_anything_is_written(data, tmp_path, monkeypatch):
    no_space(monkeypatch)
    with pytest.raises(UserError, match="are needed and 1 kB are free"):
        run(data, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.png"))


def test_a_full_disk_ends_the_run(data, tmp_path, monkeypatch):
    def full(path, write):
        raise UserError(f"cannot write {path}: No space left on device; free space or choose another folder")

    with monkeypatch.context() as patch:
        patch.setattr("dataset.prepare.pictures.write_atomic", full)
        with pytest.raises(UserError, match="No space left on device"):
            run(data, tmp_path / "out", "--bad-sample-budget", 1)
    assert len(read_lines(run(data, tmp_path / "out"))) == 5


def test_one_run_at_a_time(data, tmp_path):
    run(data, tmp_path / "out")
    with (tmp_path / "out" / "ultraedit_preparation" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is writing"):
            run(data, tmp_path / "out")


@pytest.mark.parametrize("words", [["--num-workers", "0"], ["--bad-sample-budget", "2"]])
def test_bad_options(words):
    with pytest.raises(UserError, match=words[0]):
        parse(PrepareUltraEditConfig, ["--data-path", "x", "--output-dir", "y", *words])


def test_threads_give_the_same_list(data, tmp_path):
    one = run(data, tmp_path / "one").read_text()
    assert run(data, tmp_path / "three", "--num-workers", "3").read_text() == one


def test_exit_status(tmp_path):
    write_parquet(tmp_path / "a.parquet", [row(0), row(1, edit_prompt="")], IMAGES)
    flags = ("--data-path", tmp_path, "--output-dir", tmp_path / "out")
    done = run_program("dataset/prepare_ultraedit.py", *flags, check=False)
    assert done.returncode == 2 and "error: 1 of 2 items cannot be used" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_text_features_of_the_list(data, tmp_path):
    """The next program takes what this one wrote, and training what that one wrote."""
    listing = run(data)
    make_small_t5(["do before after 0 1 2 3 4"], tmp_path / "t5", 16)
    flags = ["--t5-model-path", str(tmp_path / "t5"), "--precision", "none", "--caption-key"]
    with distributed("cpu") as process:
        extract(parse(ExtractConfig, ["--data-path", str(listing), *flags, "output_caption"]), process)
        more = str(listing.with_name("ultraedit_t5.jsonl"))
        extract(parse(ExtractConfig, ["--data-path", more, *flags, "edit_prompt"]), process)
    encoder = T5Encoder(tmp_path / "t5")
    for field, word in (("target_caption", "after"), ("instruction", "do")):
        dataset = build_dataset("editing_ultraedit", [listing.with_name("ultraedit_t5_t5.jsonl")], 16, 16,
                                grid=4, text_field=field)  # fmt: skip
        for index in range(5):
            sample = dataset[index, 0]
            assert sample.problem is None
            expected = encoder.encode([f"{word} {index}"])[0].embeddings
            torch.testing.assert_close(sample.text.embeddings, expected, atol=1e-5, rtol=0)
