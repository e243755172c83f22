"""Captioned images in webdataset shards as a list for stage 1."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from pictures import picture, png
from preparation_data import Killed, encoded, kill_after, read_lines, snapshot

from dataset.prepare.captions import prepare_captions
from dataset.prepare.flags import PrepareCaptionsConfig
from runtime.config import parse
from runtime.errors import UserError


def run(data: Path, *flags: object) -> Path:
    words = ["--data-path", data, "--num-workers", 1, "--min-side", 16, *flags]
    return prepare_captions(parse(PrepareCaptionsConfig, [str(word) for word in words]))


def texts(listing: Path) -> list[tuple[str, str]]:
    return [(line["image_path"], line["text"]) for line in read_lines(listing)]


def shard(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def sample(key: str, seed: int = 0, caption: str | None = None) -> list[tuple[str, bytes]]:
    return [(f"{key}.jpg", encoded(picture(seed), "JPEG")), (f"{key}.json", b'{"caption": "of the json"}'),
            *([(f"{key}.txt", caption.encode())] if caption else [])]  # fmt: skip


def test_shards(tmp_path):
    shard(tmp_path / "tars" / "00000.tar", [*sample("000000000", 1, "first"), *sample("000000001", 2)])
    shard(tmp_path / "tars" / "00001.tar", [("./x/a.PNG", png(picture(3))), ("./x/a.txt", b"png")])
    with pytest.raises(UserError, match="give --output-dir"):
        run(tmp_path / "tars")
    out = tmp_path / "out"
    listing = run(tmp_path / "tars", "--output-dir", out)
    assert [(*pair, line["key"]) for pair, line in zip(texts(listing), read_lines(listing), strict=True)] == [
        ("images/00000/000000.jpg", "first", "000000000"),
        ("images/00000/000001.jpg", "of the json", "000000001"),
        ("images/00001/000000.png", "png", "./x/a"),
    ]
    assert (out / "images" / "00000" / "000000.jpg").read_bytes() == encoded(picture(1), "JPEG")
    before = snapshot(out)
    run(tmp_path / "tars", "--output-dir", out)
    assert snapshot(out) == before
    shard(tmp_path / "tars" / "00002.tar", sample("z", 1, "more"))
    stamp = (out / "images" / "00000" / "000000.jpg").stat().st_mtime_ns
    assert len(texts(run(tmp_path / "tars", "--output-dir", out))) == 4
    assert (out / "images" / "00000" / "000000.jpg").stat().st_mtime_ns == stamp


def test_resume_shards_after_a_kill(tmp_path, monkeypatch):
    for number in range(3):
        shard(tmp_path / f"{number}.tar", [m for i in range(3) for m in sample(f"{i}", i, f"{number} {i}")])
    with monkeypatch.context() as patch:
        kill_after(patch, "dataset.prepare.pictures", 4)
        with pytest.raises(Killed):
            run(tmp_path, "--output-dir", tmp_path / "out")
    stamp = (tmp_path / "out" / "images" / "0" / "000000.jpg").stat().st_mtime_ns
    listing = run(tmp_path, "--output-dir", tmp_path / "out")
    assert [text for _, text in texts(listing)] == [f"{n} {i}" for n in range(3) for i in range(3)]
    assert (tmp_path / "out" / "images" / "0" / "000000.jpg").stat().st_mtime_ns == stamp
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_hostile_and_damaged_shards(tmp_path):
    hostile = shard(tmp_path / "hostile.tar", [*sample("../../escape", 1, "a"), *sample("/root/x", 2, "b")])
    with tarfile.open(hostile, "a") as archive:
        info = tarfile.TarInfo("link.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
        info = tarfile.TarInfo("text.txt")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    flags = ("--output-dir", tmp_path / "out", "--bad-sample-budget", 0.9)
    assert texts(run(hostile, *flags)) == [
        ("images/hostile/000000.jpg", "a"),
        ("images/hostile/000001.jpg", "b"),
    ]
    assert not (tmp_path.parent / "escape.jpg").exists() and not (tmp_path / "escape.jpg").exists()
    bad = (tmp_path / "out" / "captions_preparation" / "bad_items.txt").read_text()
    assert "item 'link': its image is not a plain file" in bad and "item 'text': no image" in bad

    whole = shard(tmp_path / "tars" / "0.tar", [m for i in range(3) for m in sample(f"{i}", i, f"{i}")])
    content = whole.read_bytes()
    for name, damaged in {
        "cut": content[:3600],
        "header": content[:2560] + b"garbage!" * 64 + content[3072:],
        "text": b"this is no tar file" * 100,
    }.items():
        whole.write_bytes(damaged)
        with pytest.raises(UserError, match="items cannot be used"):
            run(tmp_path / "tars", "--output-dir", tmp_path / name)
        bad = (tmp_path / name / "captions_preparation" / "bad_items.txt").read_text()
        assert "0.tar: damaged after" in bad, name


def test_an_item_with_two_images_or_two_captions_of_a_kind_is_named(tmp_path):
    jpeg, other = (encoded(picture(number), "JPEG") for number in (1, 2))
    members = [
        ("a.jpg", jpeg), ("a.JPG", other), ("a.txt", b"two pictures"),
        ("b.jpg", jpeg), ("b.png", png(picture(2))), ("b.txt", b"of two kinds"),
        ("c.jpg", jpeg), ("c.txt", b"one caption"), ("c.TXT", b"another"),
        ("d.JPG", jpeg), ("d.TXT", b"capitals"), ("d.json", b'{"caption": "second choice"}'),
    ]  # fmt: skip
    listing = run(
        shard(tmp_path / "0.tar", members), "--output-dir", tmp_path / "o", "--bad-sample-budget", 1
    )
    assert texts(listing) == [("images/0/000003.jpg", "capitals")]
    bad = (tmp_path / "o" / "captions_preparation" / "bad_items.txt").read_text()
    for message in (
        "item 'a': .jpg and .JPG are both there; keep one",
        "item 'b': .jpg and .png are both there; keep one",
        "item 'c': .txt and .TXT are both there; keep one",
    ):
        assert message in bad
