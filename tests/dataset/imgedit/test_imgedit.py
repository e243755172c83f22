"""ImgEdit's published layout, made small: archives, masks beside the pairs and masks of objects, the list."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import picture, png
from PIL import Image
from preparation_data import read_lines, snapshot

from dataset.build import build_dataset
from dataset.imgedit.archives import Archive, JoinedFile, find_stores
from dataset.imgedit.flags import PrepareImgEditConfig
from dataset.imgedit.masks import decode_coco_runs
from dataset.imgedit.preparation import prepare_imgedit
from dataset.records.masks import load_edit_region
from runtime.config import parse
from runtime.errors import UserError

SIDE = 32
BOX = (slice(8, 20), slice(4, 16))  # rows and columns of the edited object, at the photograph's size
PHOTO_SIDE = 64  # pairs are made at half of it


def object_mask() -> np.ndarray:
    marks = np.zeros((PHOTO_SIDE, PHOTO_SIDE), bool)
    marks[BOX[0].start * 2 : BOX[0].stop * 2, BOX[1].start * 2 : BOX[1].stop * 2] = True
    return marks


def coco_runs(marks: np.ndarray) -> str:
    """As pycocotools writes them, a character after the other."""
    flat = marks.T.reshape(-1).astype(int)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    runs = np.diff(np.concatenate([[0], changes])).tolist()
    text = ""
    for number, run in enumerate(runs):
        value = run - runs[number - 2] if number > 2 else run
        while True:
            digit, value = value & 31, value >> 5
            last = value == (-1 if digit & 16 else 0)
            text += chr(48 + digit + (0 if last else 32))
            if last:
                break
    return text


def box() -> list[float]:
    return [BOX[1].start * 2.0, BOX[0].start * 2.0, BOX[1].stop * 2.0, BOX[0].stop * 2.0]


def sample_name(number: int) -> str:
    return f"00094_00030_{number:09d}"


def metadata(number: int, **changes) -> dict:
    edited = {"class_name": "dog", "bbox": box(), "mask": "", "score": 0.9}
    values = {"original_path": sample_name(number).replace("_", "/") + ".jpg", "edit_type": "remove"}
    return values | {"edit_obj": edited, "edit_prompt": "remove the dog", "edit_result": None} | changes


def sample_files(number: int, painted: bool) -> dict[str, bytes]:
    files = {
        "original.png": png(picture(number, SIDE)),
        "result.png": png(picture(100 + number, SIDE)),
        "result.json": json.dumps(metadata(number)).encode(),
    }
    if painted:  # black where painted
        files["mask.png"] = png(Image.fromarray(np.where(object_mask(), 0, 255).astype(np.uint8)))
    return files


def record(number: int, **changes) -> dict:
    other = {"class_name": "dog", "bbox": [0, 0, 3, 3], "mask": "x", "score": 0.5}
    found = {"class_name": "dog", "bbox": box(), "mask": coco_runs(object_mask()), "score": 0.9}
    values = {
        "path": sample_name(number).replace("_", "/") + ".jpg",
        "resolution": {"height": PHOTO_SIDE, "width": PHOTO_SIDE},
        "segmentation": {
            "background": [{"class_name": "sky"}],
            "object": [other, found],
            "box_format": "xyxy",
        },
    }
    return values | changes


def write_tar(path: Path, files: dict[str, bytes], parts: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    data = stream.getvalue()
    if parts == 1:
        path.write_bytes(data)
        return
    length = -(-len(data) // parts)
    for number in range(parts):
        piece = data[number * length : (number + 1) * length]
        path.with_name(f"{path.name}.split.{number:03d}").write_bytes(piece)


def write_parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = [(name, pa.list_(pa.string())) for name in ("input_images", "output_images")]
    table = pa.Table.from_pylist(rows, pa.schema([*kinds, ("prompt", pa.string())]))
    pq.write_table(table, path, row_group_size=2)


def row(number: int, folder: str, **changes) -> dict:
    stem = f"{folder}/{sample_name(number)}"
    values = {"input_images": [f"{stem}/original.png"], "output_images": [f"{stem}/result.png"]}
    return values | {"prompt": f"remove the dog {number}"} | changes


def write_set(
    root: Path, folder: str, numbers, painted: bool, parts: int = 3, top: str | None = None
) -> None:
    """An archive, cut as published, and its parquet file, named after the task."""
    files = {
        f"{folder if top is None else top}/{sample_name(n)}/{name}": data
        for n in numbers
        for name, data in sample_files(n, painted).items()
    }
    write_tar(root / "Singleturn" / f"{folder}.tar", files, parts)
    task = folder.removeprefix("results_")
    write_parquet(root / "Parquet" / f"{task}.parquet", [row(n, folder) for n in numbers])


@pytest.fixture
def data(tmp_path):
    """Two pairs with masks beside them, in an archive in parts that has no folder of its own; one without."""
    root = tmp_path / "ImgEdit"
    write_set(root, "results_remove_laion_part5", (1, 2), painted=True, top=".")
    write_set(root, "results_replace_part9", (3,), painted=False, parts=1)
    masks = {f"part0/{sample_name(3)}_step4.json": json.dumps(record(3)).encode()}
    write_tar(tmp_path / "masks" / "jsons" / "part0.tar", masks)
    return root


def run(data: Path, output: Path, *flags: object, masks: bool = True) -> Path:
    words = ["--data-path", data, "--output-dir", output, "--num-workers", 1, *flags]
    words += ["--masks-path", data.parent / "masks"] if masks else []
    return prepare_imgedit(parse(PrepareImgEditConfig, [str(word) for word in words]))


def test_list_images_and_masks(data, tmp_path):
    listing = run(data, tmp_path / "out")
    lines = read_lines(listing)
    assert lines[0] == {
        "file_name": "images/remove_laion_part5/000000_source.png",
        "edited_image": "images/remove_laion_part5/000000_edited.png",
        "mask_image": "masks/remove_laion_part5/000000.png",
        "edit_prompt": "remove the dog 1",
    }
    assert [line["edit_prompt"] for line in lines] == [f"remove the dog {n}" for n in (1, 2, 3)]
    assert (tmp_path / "out" / lines[1]["file_name"]).read_bytes() == png(picture(2, SIDE)), "byte for byte"
    expected = np.zeros((SIDE, SIDE), np.float32)
    expected[BOX] = 1
    for line in lines:  # from mask.png, and from the object's run lengths, both at the photograph's size
        region = load_edit_region(tmp_path / "out" / line["mask_image"])
        assert torch.equal(region, torch.from_numpy(expected)), line
    sample = build_dataset("editing_ultraedit", [listing], SIDE, None, grid=4, text_field="instruction")[0, 7]
    assert sample.problem is None and sample.edit_mask.any() and not sample.edit_mask.all()
    before = snapshot(tmp_path / "out")
    run(data, tmp_path / "out")
    assert snapshot(tmp_path / "out") == before, "a second run has nothing to do"


def test_unpacked_folders_and_bare_files_serve_too(data, tmp_path):
    expected = read_lines(run(data, tmp_path / "out"))
    for path in list((data / "Singleturn").glob("*.tar*")):
        path.unlink()
    for folder, numbers, painted in (
        ("results_remove_laion_part5", (1, 2), True),
        ("results_replace_part9", (3,), False),
    ):
        for n in numbers:
            for name, content in sample_files(n, painted).items():
                file = data / "Singleturn" / folder / sample_name(n) / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
    jsons = tmp_path / "masks" / "jsons"
    (jsons / "part0.tar").unlink()
    (jsons / "some_name.json").write_text(json.dumps({"a key": record(3)}))
    assert read_lines(run(data, tmp_path / "again")) == expected


def test_run_lengths_are_cocos():
    """Two objects of the example in ImgEdit's README: of 2000x1333 pixels, and the boxes that they fill."""
    for text, left, top, right, bottom in (
        ("hhge0;UY18L2O1N101O001O0001O1N3M5L;CcVPk1", 535, 640, 551, 668),
        ("kQie02aY13M2L5N3N1N2O1OO2O0O2O0O2O001N0101N10001N10001O0O2O001N2O0O2O0000O2O0O1DWgNImX10`PQj1",
         539, 620, 576, 646),
    ):  # fmt: skip
        rows, columns = np.nonzero(decode_coco_runs(text, 1333, 2000))
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(np.subtract(found, (left, top, right, bottom))).max() <= 4, found
    for seed in range(3):
        marks = np.random.default_rng(seed).random((37, 23)) < 0.3
        assert np.array_equal(decode_coco_runs(coco_runs(marks), 37, 23), marks)
    for text, message in (
        ("a b", "' ' is no character"),
        ("P", "no run lengths of a mask of 2000x1333"),
        ("", "no run"),
    ):
        with pytest.raises(UserError, match=message):
            decode_coco_runs(text, 1333, 2000)


def test_several_files_read_as_one(tmp_path):
    pieces = [b"abc", b"", b"defgh", b"i"]
    for number, piece in enumerate(pieces):
        (tmp_path / f"x.tar.split.{number:03d}").write_bytes(piece)
    (store,) = find_stores([tmp_path])
    assert isinstance(store, Archive) and store.name == "x"
    stream = io.BufferedReader(JoinedFile(store.parts), buffer_size=2)
    assert stream.read() == b"abcdefghi"
    assert [(stream.seek(at), stream.read(3))[1] for at in (2, 0, 7)] == [b"cde", b"abc", b"hi"]
    assert stream.seek(-2, io.SEEK_END) == 7
    (tmp_path / "x.tar.split.001").unlink()
    with pytest.raises(UserError, match=r"x.tar.split.001 is missing, but later parts are there"):
        find_stores([tmp_path])


def test_what_is_missing_ends_the_run_at_once(data, tmp_path):
    with pytest.raises(
        UserError, match=r"replace_part9.parquet: .* have no mask.png beside them: .* --masks-path"
    ):
        run(data, tmp_path / "out", masks=False)
    assert run(data, tmp_path / "out", "--edit-types", "remove", masks=False).exists()
    with pytest.raises(UserError, match="holds no parquet file of background"):
        run(data, tmp_path / "b", "--edit-types", "background")
    (last,) = (data / "Singleturn").glob("*.split.002")
    content = last.read_bytes()
    last.write_bytes(b"")
    with pytest.raises(
        UserError, match=r"split.002: this archive of 3 part\(s\) cannot be read .* download it again"
    ):
        run(data, tmp_path / "c")
    last.write_bytes(content)
    (data / "Singleturn" / "results_replace_part9.tar").unlink()
    with pytest.raises(
        UserError, match=r"in results_replace_part9/, of which there is no archive and no folder"
    ):
        run(data, tmp_path / "d")
    with pytest.raises(UserError, match=r"no Parquet/ in it; download ImgEdit there"):
        run(tmp_path, tmp_path / "e", masks=False)


def other_size(mask: np.ndarray) -> bytes:
    return png(Image.fromarray(np.where(mask, 0, 255).astype(np.uint8)))


WRONG = {
    "no picture": (lambda files: files.pop("result.png"), r"/result.png: no such file"),
    "damaged picture": (lambda files: files.update({"original.png": b"no"}), r"not an image"),
    "other sizes": (lambda files: files.update({"result.png": png(picture(1, 16))}), r"is 32x32 but .*16x16"),
    "empty mask": (
        lambda files: files.update({"mask.png": other_size(np.zeros((64, 64), bool))}),
        r"mask.png: the mask marks nothing to edit",
    ),
    "mask of another shape": (
        lambda files: files.update({"mask.png": other_size(np.ones((64, 32), bool))}),
        r"the mask is 32x64, of another shape than its image 32x32",
    ),
    "no mask, damaged json": (
        lambda files: (files.pop("mask.png"), files.update({"result.json": b"{"})),
        r"result.json: not JSON",
    ),
    "no mask, no json": (
        lambda files: (files.pop("mask.png"), files.pop("result.json")),
        r"has no mask.png, and there is no result.json",
    ),
    "no mask, picture unknown": (lambda files: files.pop("mask.png"), r"/000000002 is not in the jsons"),
    "no mask, no object": (
        lambda files: (
            files.pop("mask.png"),
            files.update({"result.json": json.dumps(metadata(3, edit_obj=None)).encode()}),
        ),
        r"names no edited object with class_name and bbox",
    ),
    "no mask, box of no numbers": (
        lambda files: (
            files.pop("mask.png"),
            files.update({"result.json": json.dumps(
                metadata(3, edit_obj={"class_name": "dog", "bbox": [float("nan")] * 4})).encode()}),
        ),
        r"names no edited object with class_name and bbox of four numbers",
    ),
    "no mask, other object": (
        lambda files: (
            files.pop("mask.png"),
            files.update({"result.json": json.dumps(
                metadata(3, edit_obj={"class_name": "cat", "bbox": box()})).encode()}),
        ),
        r"edits 'cat' in .*, but .* has no such object there; its objects: dog, sky",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_in_a_pair_is_named(data, tmp_path, name):
    change, message = WRONG[name]
    changed = sample_files(2, painted=True)
    change(changed)
    files = {1: sample_files(1, painted=True), 2: changed}
    for path in (data / "Singleturn").glob("results_remove*"):
        path.unlink()
    members = {f"x/{sample_name(n)}/{file}": d for n, some in files.items() for file, d in some.items()}
    write_tar(data / "Singleturn" / "results_remove_laion_part5.tar", members)
    with pytest.raises(UserError, match="1 of 3 items cannot be used"):
        run(data, tmp_path / "out")
    bad = (tmp_path / "out" / "imgedit_preparation" / "bad_items.txt").read_text()
    assert len(bad.splitlines()) == 1 and re.search(message, bad), bad


def test_rows_that_are_no_pairs_are_named(data, tmp_path):
    folder = "results_remove_laion_part5"
    rows = [
        row(1, folder),
        row(2, folder, input_images=["a", "b"]),
        row(2, folder, prompt=" "),
        row(2, folder, output_images=["../x/original.png"]),
        row(2, folder, output_images=None),
    ]
    write_parquet(data / "Parquet" / "remove_laion_part5.parquet", rows)
    listing = run(data, tmp_path / "out", "--bad-sample-budget", 0.7)
    assert [line["edit_prompt"] for line in read_lines(listing)] == ["remove the dog 1", "remove the dog 3"]
    bad = (tmp_path / "out" / "imgedit_preparation" / "bad_items.txt").read_text()
    for message in (
        "row 1: input_images must name one picture, got ['a', 'b']",
        "row 2: 'prompt' must be a text, got ' '",
        "row 3: '../x/original.png' is not <folder>/<sample>/<file>",
        "row 4: output_images must name one picture, got None",
    ):
        assert message in bad


def test_what_is_wrong_in_the_masks_of_objects_is_named(data, tmp_path):
    for changes, message in (
        ({"path": "00094/00030/000000004.jpg"}, "is of '00094/00030/000000004.jpg', but its name says"),
        ({"resolution": None}, "needs a resolution with height and width, got None"),
        ({"resolution": {"height": 9, "width": 9}}, "no run lengths of a mask of 9x9"),
    ):
        content = json.dumps(record(3, **changes)).encode()
        write_tar(tmp_path / "masks" / "jsons" / "part0.tar", {f"{sample_name(3)}.json": content})
        with pytest.raises(UserError, match="1 of 3 items cannot be used"):
            run(data, tmp_path / "out")
        assert message in (tmp_path / "out" / "imgedit_preparation" / "bad_items.txt").read_text()


def test_two_files_of_one_sample_and_name_are_told_apart_or_refused(data, tmp_path):
    folder = "results_remove_laion_part5"
    for path in (data / "Singleturn").glob(f"{folder}*"):
        path.unlink()
    first, second = (sample_files(n, painted=True) for n in (1, 2))
    members = {f"{folder}/{sample_name(1)}/{name}": content for name, content in first.items()}
    members |= {f"a/{sample_name(2)}/{name}": content for name, content in second.items()}
    members[f"b/{sample_name(2)}/result.png"] = first["result.png"]
    write_tar(data / "Singleturn" / f"{folder}.tar", members)
    listing = run(data, tmp_path / "out", "--bad-sample-budget", 0.5)
    assert [line["edit_prompt"] for line in read_lines(listing)] == ["remove the dog 1", "remove the dog 3"]
    bad = (tmp_path / "out" / "imgedit_preparation" / "bad_items.txt").read_text()
    name = f"{sample_name(2)}/result.png"
    assert len(bad.splitlines()) == 1 and f"holds a/{name} and b/{name}, " in bad


def test_archives_of_one_top_folder_are_looked_through_together(data, tmp_path):
    """One pair in each; a picture's mask is that of its own archive; two pictures of a name are refused."""
    folder = "results_remove_laion_part5"
    for path in (data / "Singleturn").glob(f"{folder}*"):
        path.unlink()
    first, second = (
        {f"{folder}/{sample_name(n)}/{name}": c for name, c in sample_files(n, painted=True).items()}
        for n in (1, 2)
    )
    foreign = {f"{folder}/{sample_name(1)}/mask.png": other_size(np.ones((64, 64), bool))}
    write_tar(data / "Singleturn" / "a.tar", second | foreign)
    write_tar(data / "Singleturn" / "b.tar", first)
    lines = read_lines(run(data, tmp_path / "out"))
    assert [line["edit_prompt"] for line in lines] == [f"remove the dog {n}" for n in (1, 2, 3)]
    marked = load_edit_region(tmp_path / "out" / lines[0]["mask_image"]) > 0.5
    assert int(marked.sum()) == (BOX[0].stop - BOX[0].start) * (BOX[1].stop - BOX[1].start)
    clash = {f"{folder}/{sample_name(1)}/result.png": png(picture(9, SIDE))}
    write_tar(data / "Singleturn" / "c.tar", clash)
    with pytest.raises(UserError, match="1 of 3 items cannot be used"):
        run(data, tmp_path / "again")
    bad = (tmp_path / "again" / "imgedit_preparation" / "bad_items.txt").read_text()
    assert re.search(r"row 0: .*b.tar: .*/result.png and .*c.tar: .*/result.png differ", bad)


def test_a_joined_archive_may_lie_beside_its_parts_and_no_part_twice(tmp_path):
    write_tar(tmp_path / "x.tar", {"x/s/a": b"one"}, parts=2)
    write_tar(tmp_path / "x.tar", {"x/s/a": b"one"})
    assert [store.read("s/a") for store in find_stores([tmp_path])] == [b"one", b"one"]
    (tmp_path / "x.tar.split.01").write_bytes(b"")
    with pytest.raises(UserError, match=r"split.0?01 and .*split.0?01 are the same part of x.tar; keep one"):
        find_stores([tmp_path])


def test_a_turned_photograph_fits_its_mask(data, tmp_path):
    files = sample_files(2, painted=True)
    for name in ("original.png", "result.png"):
        exif, stream = Image.Exif(), io.BytesIO()
        exif[0x0112] = 6
        image = Image.open(io.BytesIO(files[name])).crop((0, 0, SIDE, SIDE // 2))
        image.save(stream, "PNG", exif=exif)
        files[name] = stream.getvalue()
    files["mask.png"] = other_size(np.ones((PHOTO_SIDE, PHOTO_SIDE // 2), bool) & (np.arange(32) < 9))
    members = {f"x/{sample_name(2)}/{name}": content for name, content in files.items()}
    for path in (data / "Singleturn").glob("results_remove*"):
        path.unlink()
    write_tar(data / "Singleturn" / "results_remove_laion_part5.tar", members)
    write_parquet(data / "Parquet" / "remove_laion_part5.parquet", [row(2, "results_remove_laion_part5")])
    line = read_lines(run(data, tmp_path / "out"))[0]
    assert load_edit_region(tmp_path / "out" / line["mask_image"], (SIDE // 2, SIDE)).sum() > 0


def test_a_file_that_was_appended_again_and_what_macs_add_are_no_second_files(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in (
            ("x/._s/a", b"mac"),
            ("x/s/a", b"old"),
            ("./x/s/a", b"new"),
            ("x/s/._a", b"mac"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (tmp_path / "x.tar").write_bytes(stream.getvalue())
    (store,) = find_stores([tmp_path])
    assert store.read("s/a") == b"new" and "s/._a" not in store.names()


def test_records_of_one_picture_that_differ_are_named(data, tmp_path):
    jsons = tmp_path / "masks" / "jsons"
    (jsons / "copy.json").write_text(json.dumps(record(3)))  # the same as in the archive
    expected = read_lines(run(data, tmp_path / "out"))
    assert len(expected) == 3
    (jsons / "copy.json").write_text(json.dumps(record(3, segmentation={"object": []})))
    with pytest.raises(UserError, match="1 of 3 items cannot be used"):
        run(data, tmp_path / "again")
    bad = (tmp_path / "again" / "imgedit_preparation" / "bad_items.txt").read_text()
    assert re.search(r"part0.tar: .*_step4.json and .*copy.json differ, both of 00094/00030/000000003", bad)
