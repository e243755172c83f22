"""What Macs add to folders and archives (`._*`, `__MACOSX`, `.DS_Store`) changes nothing."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import picture, png
from preparation_data import IMAGE, cell
from test_pairs import make_run, names, pairs_of
from test_prepare_captions_tar import run as prepare
from test_prepare_captions_tar import sample, shard, texts

from autoregressive.sample.edit_test_sets import settings_of
from autoregressive.sample.flags import SampleMagicBrush
from autoregressive.train.packing.shards import _data_fingerprint
from dataset.build import build_dataset
from dataset.image_folder import list_images
from dataset.packed.codes import CodesDataset, save_codes
from dataset.prepare.extraction import _claim_folder, list_jsonl
from dataset.prepare.output import claimed
from dataset.shapes.flags import PrepareShapesConfig
from dataset.shapes.prepare import prepare_shapes
from dataset.testsets.emu_edit import read_emu
from dataset.testsets.emu_pairs import find_emu_pairs, load_emu_list
from dataset.testsets.magicbrush import read_listed_sessions
from dataset.testsets.pairs import FINAL_TURN
from evaluations.editing.emu_scores import _describe_data as describe_emu
from evaluations.editing.magicbrush_scores import _describe_data as describe_sessions
from evaluations.folders import list_images as list_evaluated
from evaluations.t2i.pictures import list_generated, read_captions

COMPANION = b"\0\5\x16\7\0\2\0\0Mac OS X        "


def as_from_a_mac(folder: Path) -> None:
    """Puts beside each file, and into a tree of their own, what a Mac's archive puts there."""
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        apart = folder / "__MACOSX" / file.relative_to(folder)
        apart.parent.mkdir(parents=True, exist_ok=True)
        apart.write_bytes(COMPANION)
        for path in (
            file.parent / f"._{file.name}",
            file.parent / ".DS_Store",
            apart.parent / f"._{file.name}",
        ):
            path.write_bytes(COMPANION)


def pictures(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / name)
    return folder


def lists(folder: Path) -> Path:
    for name in ("a", "b"):
        pictures(folder, f"{name}.png")
        (folder / f"{name}.jsonl").write_text(json.dumps({"image_path": f"{name}.png", "text": name}) + "\n")
    return folder


def codes(folder: Path) -> Path:
    for number in range(2):
        (folder / "a").mkdir(parents=True, exist_ok=True)
        save_codes(folder / "a" / f"{number}.npy", torch.zeros(9, dtype=torch.long))
    return folder


def captioned(folder: Path) -> Path:
    pictures(folder, "00000/a.jpg", "b.jpg")
    for name in ("00000/a.txt", "b.txt"):
        (folder / name).write_text(f"caption {name}")
    return folder


def emu(folder: Path) -> Path:
    fields = [("idx", pa.int64()), ("image", IMAGE)]
    fields += [(name, pa.string()) for name in ("instruction", "task", "split", "hash", "input_caption")]
    row = {"idx": 3, "image": cell(png(picture())), "instruction": "x", "output_caption": "y"}
    row |= {name: "t" for name in ("task", "split", "hash", "input_caption")}
    table = pa.Table.from_pylist([row], pa.schema([*fields, ("output_caption", pa.string())]))
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "test-0.parquet")
    return folder


def emu_run(folder: Path) -> Path:
    pictures(folder, "samples/3.png", "gt/3_gt.png", "gt/4_gt.png")
    item = {"idx": 3, "input_caption": "a", "output_caption": "b", "edit_instruction": "c"}
    (folder / "list.json").write_text(json.dumps([item]))
    return folder


def drawn(folder: Path) -> Path:
    pictures(folder, "images/000000.png", "images/000001.png")
    (folder / "captions.txt").write_text("a\nb\n")
    return folder


def of_emu_run(folder: Path) -> object:
    sessions = load_emu_list(folder / "list.json")
    pairs = find_emu_pairs(sessions, folder / "samples", folder / "gt")
    config = type("Config", (), {"gt_path": str(folder / "gt")})
    return [pair.name for pair in pairs], describe_emu(config, sessions)


def of_sessions(folder: Path) -> object:
    sessions = read_listed_sessions(folder / "local_descriptions.json")
    config = type("Config", (), {"gt_path": str(folder / "gt")})
    return names(pairs_of(folder)[FINAL_TURN]), describe_sessions(config, sessions)


def test_set(folder: Path) -> object:
    flags = {"vq_ckpt": "v", "gpt_ckpt": "g", "magicbrush_path": str(folder), "output_dir": "o"}
    config = SampleMagicBrush(**flags)
    object.__setattr__(config, "settings", lambda encoder: {})  # of the weights, which are not here
    return settings_of(config, {}, None)


test_set.__test__ = False
CASES = {
    "images": (lambda folder: pictures(folder, "a.png", "deep/b.png"), list_images),
    "lists of images": (
        lambda folder: lists(folder / "lists").parent,
        lambda f: len(list_images(f / "lists")),
    ),
    "LlamaGen's folder": (lists, lambda folder: len(build_dataset("t2i", [folder], 16, None))),
    "packed from": (lists, lambda folder: _data_fingerprint([str(folder)])),
    "extraction": (lists, lambda folder: list_jsonl(folder, 0, None)),
    "codes": (codes, lambda folder: len(CodesDataset(folder, 3, 16, 8, t5_feat_path=folder))),
    "captioned": (captioned, lambda folder: texts(prepare(folder))),
    "Emu Edit": (emu, lambda folder: [item.idx for item in read_emu(folder)]),
    "Emu results": (emu_run, of_emu_run),
    "MagicBrush results": (lambda folder: make_run(folder, {"5": 2, "7": 1}), of_sessions),
    "MagicBrush test set": (emu_run, test_set),
    "drawn": (drawn, lambda folder: read_captions(folder, list_generated(folder))),
    "for FID": (lambda folder: pictures(folder, "a.png", "deep/b.png"), list_evaluated),
}


@pytest.mark.parametrize("name", CASES)
def test_companions_change_nothing(tmp_path, name):
    make, read = CASES[name]
    folder = make(tmp_path / "data") if (tmp_path / "data").mkdir() is None else tmp_path
    before = read(folder)
    as_from_a_mac(folder)
    assert read(folder) == before


def test_shards_of_a_mac(tmp_path):
    """bsdtar writes `._NAME` before each NAME, which must not tear the parts of an item apart."""
    members = []
    for name, data in [*sample("a", 1, "first"), *sample("b", 2, "second")]:
        members += [(f"._{name}", COMPANION), (name, data), (f"__MACOSX/._{name}", COMPANION)]
        members += [(".DS_Store", b"\0\0\0\1Bud1")]
    shard(tmp_path / "tars" / "0.tar", members)
    (tmp_path / "tars" / "._0.tar").write_bytes(COMPANION)
    listing = prepare(tmp_path / "tars", "--output-dir", tmp_path / "out")
    assert [text for _, text in texts(listing)] == ["first", "second"]
    with tarfile.open(tmp_path / "tars" / "0.tar") as archive:
        assert len(archive.getmembers()) == len(members)


def test_a_folder_that_a_mac_has_looked_into_is_empty(tmp_path):
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    with claimed(tmp_path, "set", {}, writes=("images",)):
        pass
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "._0.npy").write_bytes(COMPANION)
    _claim_folder(tmp_path / "features", {"captions": "x"}, "--output-dir")


def test_shapes_go_into_such_a_folder(tmp_path):
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    config = PrepareShapesConfig(
        str(tmp_path), num_train=2, num_test=1, num_emu=1, image_size=24, num_workers=1
    )
    prepare_shapes(config)


def test_real_files_of_such_names_elsewhere_stay(tmp_path):
    folder = pictures(tmp_path, "a._b.png", ".hidden.png")
    assert {path.name for path in list_images(folder)} == {"a._b.png", ".hidden.png"}
