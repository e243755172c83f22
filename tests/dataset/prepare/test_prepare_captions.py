"""Captioned images in the usual layouts as a list for stage 1."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pictures import picture, png
from preparation_data import Killed, encoded, kill_after, no_space, read_lines, snapshot

from dataset.build import build_dataset
from dataset.prepare.caption_items import line_of
from dataset.prepare.captions import prepare_captions
from dataset.prepare.flags import PrepareCaptionsConfig
from dataset.records.t2i_records import read_t2i_jsonl
from language.feature_extraction import extract
from language.flags import ExtractConfig
from language.small_encoder import make_small_t5
from runtime.config import parse
from runtime.distributed import distributed
from runtime.errors import UserError


def run(data: Path, *flags: object) -> Path:
    words = ["--data-path", data, "--num-workers", 1, "--min-side", 16, *flags]
    return prepare_captions(parse(PrepareCaptionsConfig, [str(word) for word in words]))


def texts(listing: Path) -> list[tuple[str, str]]:
    return [(line["image_path"], line["text"]) for line in read_lines(listing)]


@pytest.fixture
def folder(tmp_path):
    """img2dataset's "files": two shards, what it writes beside them, and a README."""
    root = tmp_path / "cc12m"
    for shard in ("00000", "00001"):
        (root / shard).mkdir(parents=True)
        for number in range(2):
            key = f"{shard}{number:04d}"
            (root / shard / f"{key}.jpg").write_bytes(encoded(picture(number), "JPEG"))
            (root / shard / f"{key}.txt").write_text(f" caption {key}\n")
            (root / shard / f"{key}.json").write_text(json.dumps({"caption": "of the json", "key": key}))
        (root / f"{shard}_stats.json").write_text("{}")
        (root / f"{shard}.parquet").write_bytes(b"PAR1")
    (root / "README.txt").write_text("not a caption")
    return root


def test_folder(folder):
    (folder / "00001" / "000010001.txt").unlink()  # the .json serves
    listing = run(folder)
    assert listing == folder / "captions.jsonl"
    assert texts(listing) == [
        ("00000/000000000.jpg", "caption 000000000"),
        ("00000/000000001.jpg", "caption 000000001"),
        ("00001/000010000.jpg", "caption 000010000"),
        ("00001/000010001.jpg", "of the json"),
    ]
    dataset = build_dataset("t2i_cc12m", [listing], 16, None)
    assert [dataset[index, 0].problem for index in range(4)] == [None] * 4
    before = snapshot(folder)
    run(folder)
    assert snapshot(folder) == before, "a second run must do nothing"
    (folder / "00001" / "000010000.txt").write_text("another")
    assert texts(run(folder))[2] == ("00001/000010000.jpg", "another")


def test_names_that_differ_in_case_alone(folder):
    """A camera's a.JPG beside a.jpg: neither replaces the other, and no caption is chosen among several."""
    (folder / "00000" / "000000000.JPG").write_bytes(encoded(picture(9), "JPEG"))
    assert [path for path, _ in texts(run(folder))][:2] == ["00000/000000000.JPG", "00000/000000000.jpg"]
    (folder / "00000" / "000000001.TXT").write_text("another caption")
    with pytest.raises(UserError, match="1 of 5 items"):
        run(folder)
    (problem,) = (folder / "captions_preparation" / "bad_items.txt").read_text().splitlines()
    assert "000000001.TXT and 000000001.txt are both there; keep one): no caption" in problem


def test_small_and_broken_images_are_reported(folder):
    (folder / "00000" / "000000001.jpg").write_bytes(encoded(picture(1, 12), "PNG"))
    listing = run(folder)
    assert len(texts(listing)) == 3
    assert (folder / "captions_preparation" / "small_images.txt").read_text() == "00000/000000001.jpg 12x12\n"
    assert len(texts(run(folder, "--min-side", 0))) == 4, "the threshold may change"
    assert not (folder / "captions_preparation" / "small_images.txt").exists()
    (folder / "00000" / "000000000.jpg").write_bytes(encoded(picture(1), "JPEG")[:300])
    (folder / "00000" / "000000002.jpg").write_bytes(encoded(picture(1), "JPEG"))
    (folder / "00000" / "000000003.txt").write_text("its image is gone")
    (folder / "00001" / "000010000.txt").write_bytes(b"\xff\xfe")
    (folder / "00001" / "000010001.txt").write_text(" ")
    with pytest.raises(UserError, match="5 of 6 items"):
        run(folder)
    bad = (folder / "captions_preparation" / "bad_items.txt").read_text()
    for reason in ("000000000.jpg: cannot be read", "000000002.jpg: no caption", "000000003.txt: no image",
                   "000010000.jpg: not txt in UTF-8", "000010001.jpg: no caption"):  # fmt: skip
        assert reason.replace("000010000.jpg: not", "000010000.txt: not") in bad, bad


def test_paths_must_not_leave_the_root(folder, tmp_path):
    (tmp_path / "secret.png").write_bytes(png(picture()))
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "00000" / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "00000" / "link.txt").write_text("x")
    (folder / "00000" / "000000000.txt").unlink()
    (folder / "00000" / "000000000.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "absolute.csv").write_text(f"image,caption\n{tmp_path}/secret.png,a\n../secret.png,b\n")
    with pytest.raises(UserError, match="2 of 5 items"):
        run(folder)
    assert (folder / "captions_preparation" / "bad_items.txt").read_text().count("leads outside") == 2
    with pytest.raises(UserError, match="2 of 2 items"):
        run(folder / "absolute.csv", "--name", "absolute")
    assert len(texts(run(folder / "absolute.csv", "--name", "absolute", "--allow-outside-root"))) == 2
    (folder / "linked").symlink_to(tmp_path)
    with pytest.raises(UserError, match="linked is a link to a folder"):
        run(folder)


def test_links_that_lead_back_end(folder):
    (folder / "00000" / "back").symlink_to(folder)
    assert len(texts(run(folder, "--allow-outside-root"))) == 4


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.png").write_bytes(png(picture(number)))
    return tmp_path


def test_csv(images):
    (images / "list.csv").write_text(
        'filepath,title\nimages/0.png,"two, ""quoted""\nlines"\n\nimages/1.png,x\n\n'  # blank lines too
    )
    assert texts(run(images / "list.csv")) == [
        ("images/0.png", 'two, "quoted"\nlines'),
        ("images/1.png", "x"),
    ]
    assert texts(run(images / "list.csv", "--name", "more")) == texts(images / "captions.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            'image,caption\nimages/0.png,"a red\nimages/1.png,x\n',
            r"list.csv line 3: cannot be parsed: .* \"\" for",
        ),
        ('image,caption\nimages/0.png,"x" y\n', r"list.csv line 2: cannot be parsed"),
        ("image,caption,caption\nimages/0.png,x,y\n", "list.csv: has the column caption twice; keep one"),
        ("image,caption\n".encode("utf-16"), "list.csv: is UTF-16, not UTF-8"),
    ],
)
def test_a_table_that_could_be_read_in_two_ways_is_refused(images, content, message):
    (images / "list.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        run(images / "list.csv")


def test_tsv_and_chosen_columns(images):
    rows = ['7\t0.png\t5" nails', '8\t1.png\t"said ""so"""', '9\t2.png\t"open', "10\t0.png"]
    (images / "list.tsv").write_text("\n".join(["id\twhere\tcaption", *rows]) + "\n")
    flags = ("--image-column", "where", "--image-root", images / "images", "--bad-sample-budget", 0.3)
    listing = run(images / "list.tsv", *flags)
    assert listing.parent == images / "images"
    assert texts(listing) == [("0.png", '5" nails'), ("1.png", 'said "so"'), ("2.png", '"open')]
    bad = (images / "images" / "captions_preparation" / "bad_items.txt").read_text()
    assert "list.tsv line 5 (2 fields, the header has 3)" in bad
    with pytest.raises(UserError, match="one of them image_path or image.*it has id, where, caption"):
        run(images / "list.tsv")
    with pytest.raises(UserError, match="one of them nothing; it has id"):
        run(images / "list.tsv", "--image-column", "nothing")  # leaves no claim
    other = (*flags[:4], "--caption-column", "id", *flags[4:])
    with pytest.raises(UserError, match="caption_column None instead of 'id'"):
        run(images / "list.tsv", *other)


def test_llava(images):
    def item(image, *turns):
        return {"id": "1", "image": image, "conversations": [{"from": w, "value": v} for w, v in turns]}

    items = [
        item("0.png", ("human", "<image>\nDescribe."), ("gpt", "a picture"), ("gpt", "more")),
        item("1.png", ("human", "?")),
        {"conversations": []},
        "text",
        item("gone.png", ("gpt", "x")),
        item("2.png", ("gpt", "\ud800")),
    ]
    (images / "chat.json").write_text(json.dumps(items))
    flags = ("--image-root", images / "images")
    with pytest.raises(UserError, match="5 of 6 items"):
        run(images / "chat.json", *flags)
    bad = (images / "images" / "captions_preparation" / "bad_items.txt").read_text()
    for reason in (
        "item 2: no caption",
        "item 3: no image",
        "item 4: no image",
        "gone.png: no such file",
        "not UTF-8",
    ):
        assert reason in bad
    assert texts(run(images / "chat.json", *flags, "--bad-sample-budget", 0.9)) == [("0.png", "a picture")]


def test_list_in_another_folder(images):
    (images / "list.csv").write_text("image,caption\nimages/0.png,x\n")
    listing = run(images / "list.csv", "--output-dir", images / "lists")
    (record,) = read_t2i_jsonl([listing], allow_outside_root=True)
    assert record.image_path == images / "images" / "0.png"


def test_a_part_is_not_done_again(images, monkeypatch):
    monkeypatch.setattr("dataset.prepare.caption_items.CHUNK", 1)
    (images / "list.csv").write_text("image,caption\n" + "".join(f"images/{i}.png,{i}\n" for i in range(3)))
    with monkeypatch.context() as patch:
        kill_after(patch, "runtime.texts", 2)
        with pytest.raises(Killed):
            run(images / "list.csv")
    seen = []

    def watched(item, *rest):
        seen.append(item.image)
        return line_of(item, *rest)

    monkeypatch.setattr("dataset.prepare.captions.line_of", watched)
    assert len(texts(run(images / "list.csv"))) == 3
    assert seen == ["images/2.png"]
    images.rename(moved := images.with_name(f"{images.name}_moved"))
    assert len(texts(run(moved / "list.csv"))) == 3 and len(seen) == 1, "a moved folder is done"


def test_wrong_use(tmp_path, images, monkeypatch):
    with pytest.raises(UserError, match="does not exist"):
        run(tmp_path / "absent")
    with pytest.raises(UserError, match="--name '../x': letters"):
        run(tmp_path, "--name", "../x")
    (tmp_path / "list.xml").write_text("")
    with pytest.raises(UserError, match="give a folder, or a .tar, .csv, .tsv or .json file"):
        run(tmp_path / "list.xml")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="nothing to prepare was found"):
        run(tmp_path / "empty")
    (tmp_path / "list.csv").write_text("image,caption\nimages/0.png,x\n")
    with pytest.raises(UserError, match="all images have a short side below 64"):
        run(tmp_path / "list.csv", "--min-side", 64)
    no_space(monkeypatch, free=10)
    (tmp_path / "more.csv").write_text("image,caption\nimages/0.png,x\n")
    with pytest.raises(UserError, match="10 B are free"):
        run(tmp_path / "more.csv", "--output-dir", tmp_path / "more")
    assert not os.path.exists(tmp_path / "more" / "captions.jsonl")


def test_text_features_of_the_list(folder, tmp_path):
    """The next program takes what this one wrote, and training what that one wrote."""
    listing = run(folder)
    make_small_t5(["caption of the json"], tmp_path / "t5", 16)
    flags = ["--data-path", str(listing), "--t5-model-path", str(tmp_path / "t5"), "--precision", "none"]
    with distributed("cpu") as process:
        extract(parse(ExtractConfig, flags), process)
    dataset = build_dataset("t2i_cc12m", [folder / "captions_t5.jsonl"], 16, 16)
    assert [dataset[index, 0].problem for index in range(4)] == [None] * 4
    assert dataset[0, 0].text.embeddings.shape[1] == 16
    assert len(texts(run(folder))) == 4, "feature files among the images change nothing"
