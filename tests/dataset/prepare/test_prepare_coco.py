"""COCO's captions as the table of prompts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from preparation_data import no_space, snapshot

from dataset.prepare_coco import PrepareCocoConfig, prepare_coco
from runtime.config import parse
from runtime.errors import UserError

CAPTIONS = {
    9: [(40, "second"), (31, ' A man\tholding\n a "red" kite. ')],
    2: [(7, '"Hello" it says')],
    5: [(8, "plain")],
    6: [(10, "naïve café")],
}


@pytest.fixture
def source(tmp_path):
    annotations = [
        {"image_id": image, "id": number, "caption": text}
        for image, captions in CAPTIONS.items()
        for number, text in captions
    ]
    images = [{"id": image, "file_name": f"COCO_val2014_{image:012d}.jpg"} for image in CAPTIONS]
    path = tmp_path / "captions_val2014.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def run(source: Path, *flags: object, output: str = "coco.tsv") -> list[dict[str, str]]:
    words = ["--annotations", source, "--output", source.parent / output, *flags]
    prepare_coco(parse(PrepareCocoConfig, [str(word) for word in words]))
    with (source.parent / output).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_one_caption_an_image_in_a_seeded_order(source):
    rows = run(source, "--num-prompts", 4)
    assert {int(row["image_id"]): row["Prompt"] for row in rows} == {
        9: 'A man holding a "red" kite.', 2: '"Hello" it says', 5: "plain", 6: "naïve café"}  # fmt: skip
    assert all(row["file_name"] == f"COCO_val2014_{int(row['image_id']):012d}.jpg" for row in rows)
    lines = (source.parent / "coco.tsv").read_text().splitlines()
    assert len(lines) == 5 and lines[0].split("\t")[0] == "Prompt"
    orders = {tuple(r["image_id"] for r in run(source, "--num-prompts", 4, "--seed", s, output=f"{s}.tsv"))
              for s in range(8)}  # fmt: skip
    assert len(orders) > 2, "the seed must change the order"
    assert rows[:2] == run(source, "--num-prompts", 2, output="two.tsv"), "fewer prompts are the first ones"


def test_a_second_run_does_nothing_and_another_list_is_refused(source):
    run(source, "--num-prompts", 3)
    before = snapshot(source.parent)
    run(source, "--num-prompts", 3)
    assert snapshot(source.parent) == before
    with pytest.raises(UserError, match="another list already"):
        run(source, "--num-prompts", 2)


def test_bad_input(source, monkeypatch):
    with pytest.raises(UserError, match="captions of 4 images"):
        run(source)
    content = json.loads(source.read_text())
    content["annotations"] += [{"image_id": 1, "id": 99, "caption": " "}, {"image_id": "x", "id": 3}, 7]
    source.write_text(json.dumps(content))
    with pytest.raises(UserError, match="3 of 7 items"):
        run(source, "--num-prompts", 2)
    named = (source.parent / "coco_bad_items.txt").read_text()
    assert "annotation 6 (image 1): no caption" in named and "annotation 7: needs a whole number" in named
    run(source, "--num-prompts", 2, "--bad-sample-budget", 0.5)
    source.write_text('{"images": []}')
    with pytest.raises(UserError, match="needs a list under the key 'annotations'"):
        run(source)
    source.write_text("[")
    with pytest.raises(UserError, match="not JSON"):
        run(source)


def test_too_little_space(source, monkeypatch):
    no_space(monkeypatch, free=10)
    with pytest.raises(UserError, match="are needed and 10 B are free"):
        run(source, "--num-prompts", 2)
    assert not (source.parent / "coco.tsv").exists()
