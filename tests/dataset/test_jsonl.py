from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from dataset.build import build_dataset
from dataset.image_folder import list_images
from dataset.records.images import load_image
from dataset.records.jsonl import JsonlRecords
from dataset.records.t2i_records import read_t2i_jsonl
from dataset.t2i import T2IDataset
from dataset.testsets.magicbrush import read_sessions
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
    with pytest.raises(UserError, match="--absolute-paths"):
        records[1]
    own = read_t2i_jsonl([file], absolute_paths=True)
    assert load_image(own[1].image_path)
    for index in (0, 2, 3, 4):  # relative paths, and links on their way
        with pytest.raises(UserError, match=r"leads outside the data folder.*--allow-outside-root$"):
            own[index]
    free = read_t2i_jsonl([file], allow_outside_root=True)
    assert all(load_image(free[index].image_path) for index in range(1, len(lines)))


@pytest.mark.parametrize("path", ["x" * 5000, "a\0.png", "\ud800.png", "circle.png"])
def test_paths_that_no_system_takes(tmp_path, path):
    os.symlink("circle.png", tmp_path / "circle.png")
    file = write_lines(tmp_path / "t2i.jsonl", {"image_path": path, "text": "x"})
    assert T2IDataset(read_t2i_jsonl([file]), 16, None)[0, 0].problem is not None


ABSOLUTE = {
    "picture": ("t2i_cc12m", lambda image, features: {"image_path": image, "text": "x"}),
    "features": ("t2i_cc12m", lambda image, features: {"image_path": "a.png", "embedding_path": features}),
    "llamagen": ("t2i_laion_coco", lambda image, features: {"image_path": image, "text": ["x"]}),
    "edit": (
        "editing_ultraedit",
        lambda image, features: {
            "file_name": image, "edited_image": image, "mask_image": image, "edit_prompt": "x",
            "target_caption_t5_path": features,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ABSOLUTE)
def test_absolute_paths_of_a_list_of_ones_own_are_taken_as_they_are(tmp_path, kind):
    name, make = ABSOLUTE[kind]
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir(), outside.mkdir()
    for image in (root / "a.png", outside / "a.png"):
        Image.linear_gradient("L").resize((32, 32)).save(image)
    np.save(outside / "t.npy", np.ones((1, 3, 8), np.float32))
    width = 8 if kind in ("features", "edit") else None
    options = {"grid": 2} if name == "editing_ultraedit" else {}

    def problem(prefix: str, **flags) -> str | None:
        file = write_lines(root / "list.jsonl", make(f"{prefix}/a.png", f"{prefix}/t.npy"))
        paths = [root if name == "t2i_laion_coco" else file]
        return build_dataset(name, paths, 32, width, **options, **flags)[0, 0].problem

    assert "--absolute-paths" in problem(str(outside))
    assert problem(str(outside), absolute_paths=True) is None
    for relative in ("../outside", "link"):
        (root / "link").is_symlink() or (root / "link").symlink_to(outside)
        refused = problem(relative, absolute_paths=True)
        assert "leads outside the data folder" in refused and "--absolute-paths" not in refused


def test_absolute_paths_reach_images_and_sessions(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir(), outside.mkdir()
    Image.new("RGB", (4, 4)).save(outside / "a.png")
    file = write_lines(root / "list.jsonl", {"image_path": str(outside / "a.png")})
    assert list_images(file, absolute_paths=True) == [outside / "a.png"]
    turn = {"input": "a.png", "mask": "a.png", "output": "a.png", "instruction": str(outside / "t.npy")}
    (outside / "t.npy").write_bytes(b"")
    (root / "images" / "1").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(root / "images" / "1" / "a.png")
    (root / "edit_sessions_with_instruction_t5.json").write_text(json.dumps({"1": [turn]}))
    with pytest.raises(UserError, match="--absolute-paths"):
        read_sessions(root, True)
    assert read_sessions(root, True, absolute_paths=True)["1"][0].text_feature_path == outside / "t.npy"


def test_the_published_512_px_script_takes_absolute_paths():
    script = ROOT / "scripts" / "train_stage2_512.sh"
    assert "--absolute-paths" in script.read_text()
