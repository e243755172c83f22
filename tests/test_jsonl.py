from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from dataset.images import load_image
from dataset.jsonl import JsonlRecords
from dataset.records import read_t2i_jsonl
from dataset.t2i import T2IDataset
from runtime.errors import UserError


def write_lines(file: Path, *lines: dict | str) -> Path:
    file.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return file


def test_several_files_follow_each_other(tmp_path):
    files = [write_lines(tmp_path / f"{n}.jsonl", *({"n": n, "k": k} for k in range(n))) for n in (2, 0, 3)]
    records = JsonlRecords(files, lambda line: (line.file.stem, line.number))
    assert list(records) == [("2", 1), ("2", 2), ("3", 1), ("3", 2), ("3", 3)]
    with pytest.raises(UserError, match="no records in"):
        JsonlRecords([files[1]], lambda line: line)
    with pytest.raises(UserError, match="absent.jsonl: cannot be read"):
        JsonlRecords([tmp_path / "absent.jsonl"], lambda line: line)


def test_paths_resolve_and_stay_inside(tmp_path, tmp_path_factory, monkeypatch):
    outside = tmp_path_factory.mktemp("outside")
    for image in (tmp_path / "a.png", outside / "c.png"):
        Image.new("RGB", (2, 2)).save(image)
    os.symlink(outside / "c.png", tmp_path / "link.png")
    os.symlink(outside, tmp_path / "linked_folder")
    elsewhere = tmp_path_factory.mktemp("cwd")
    Image.new("RGB", (2, 2)).save(elsewhere / "here.png")
    monkeypatch.chdir(elsewhere)
    escapes = [
        "../x.png",
        str(outside / "c.png"),
        "link.png",
        "linked_folder/c.png",
        f"../{outside.name}/c.png",
    ]
    fine = ["a.png", "here.png", str(tmp_path / "a.png"), str(elsewhere / "here.png"), "sub/../a.png"]
    (tmp_path / "sub").mkdir()
    lines = [{"image_path": path, "text": "x"} for path in escapes + fine]
    file = write_lines(tmp_path / "paths.jsonl", *lines)
    records = read_t2i_jsonl([file])
    for index in range(len(escapes)):
        with pytest.raises(UserError, match=rf"line {index + 1}: .*leads outside the data folder"):
            records[index]
    for index in range(len(escapes), len(lines)):
        load_image(records[index].image_path)
    free = read_t2i_jsonl([file], allow_outside_root=True)
    assert all(load_image(free[index].image_path) for index in range(1, len(lines)))


@pytest.mark.parametrize("path", ["x" * 5000, "a\0.png", "\ud800.png", "circle.png"])
def test_paths_that_no_system_takes(tmp_path, path):
    os.symlink("circle.png", tmp_path / "circle.png")
    file = write_lines(tmp_path / "t2i.jsonl", {"image_path": path, "text": "x"})
    assert T2IDataset(read_t2i_jsonl([file]), 16, None)[0, 0].problem is not None
