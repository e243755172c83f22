"""Test 15: what data say is what is used: masks, lists, tables, packed sets, pictures, texts."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from autoregressive.sample.drawing import read_prompts
from autoregressive.sample.drawing_captions import read_captions
from autoregressive.sample.file_edits import read_jobs, require_usable
from autoregressive.sample.flags import SampleEditing, SampleT2I
from dataset.build import build_dataset
from dataset.edit_masks import pool_edit_mask
from dataset.image_folder import list_images
from dataset.packed.dataset import PackedEdits
from dataset.packed.format import MANIFEST
from dataset.prepare.flags import PrepareUltraEditConfig
from dataset.prepare.pictures import ImageBytes, check_image
from dataset.prepare.tars import tar_jobs
from dataset.prepare.ultraedit import prepare_ultraedit
from dataset.records.images import load_image
from dataset.records.masks import edit_region
from dataset.records.t2i_records import read_t2i_jsonl
from dataset.transforms import joint_transform
from evaluations.images import load_rgb
from runtime.config import parse
from runtime.errors import UserError
from tests.battery.cases import Assets, Case, in_little_memory, refused
from tests.packed_files import rewrite, synthetic
from tests.pictures import SIZE, picture, png, square_mask
from tests.preparation_data import cell, write_parquet

BYTES = np.array(square_mask())
ONES = (BYTES > 0).astype(np.uint8)
CLEAR = Image.fromarray(BYTES).convert("RGBA")
CLEAR.putalpha(Image.fromarray(1 - ONES))
MASKS = {
    "0 and 1": (Image.fromarray(ONES), "multiply it by 255"),
    "colours of 0 and 1": (Image.fromarray(ONES).convert("RGB"), "multiply it by 255"),
    "16 bits that hold bytes": (Image.fromarray(BYTES.astype(np.uint16)), "multiply it by 257"),
    "opacity of 0 and 1": (CLEAR, "multiply it by 255"),
}
ARRAYS = {
    "bytes of 0 and 1": (ONES, "multiply it by 255"),
    "labels": (ONES * 7, "bring it to 0 to 255"),
    "floats of 0 and 255": (BYTES / 1.0, "divide it by 255"),
    "-1 and 1": (np.where(ONES, 1.0, -1.0), "bring it to 0 to 1"),
    "NaN": (np.where(ONES, np.nan, 0), "bring it to 0 to 1"),
}
LINES = {
    "a null prompt": ({"prompt": None}, "'prompt' must be a non-empty string, got None"),
    "an output that is null": ({"output": None}, "'output' must be a non-empty string, got None"),
    "the same output twice": ({"output": "./0.png"}, "is that of"),
    "a mask that is missing": ({"mask": "no.png"}, "no.png does not exist"),
    "a picture that is torn": ({"image": "broken.png"}, "broken.png: cannot be read as an image"),
    "an output of no known kind": ({"output": "a.gif"}, "pictures are not written as .gif"),
    "a text of no words": ({"prompt": "page 3"}, "leaves nothing of 'page 3'"),
    "a text in Chinese": ({"prompt": "\u628a\u732b\u53d8\u6210\u72d7"}, "say what you want to see in"),
}  # fmt: skip
FILES = {
    "empty": (b"", "no records in"),
    "a byte-order mark alone": (b"\xef\xbb\xbf\n", "no records in"),
    "UTF-16": ('{"prompt": "x"}'.encode("utf-16"), "is UTF-16, not UTF-8"),
    "Latin-1": ('{"prompt": "é"}'.encode("latin-1"), "not UTF-8"),
}
MANIFESTS = {
    "half the text width": ({"text_width": 4}, "text_width"),
    "another codebook": ({"codebook_size": 8192}, "codebook_size"),
    "another image size": ({"image_size": 96}, "image_size"),
    "a thousand million rows": ({"num_rows": 10**9}, "num_rows 1000000000"),
    "a grid of a thousand million": ({"grid": 10**9}, "grid 1000000000"),
    "no text width": ({"text_width": 0}, "text_width 0"),
}
BLANK = {
    "empty": ("edit_prompt", ""),
    "blank": ("target_caption", "  "),
    "null instruction": ("edit_prompt", None),
}
TURNED = Image.Exif()
TURNED[0x0112] = 6
PICTURES: dict[str, Callable[[Path], Any]] = {
    "EXIF turn": lambda path: picture().crop((0, 0, SIZE, 8)).save(path, exif=TURNED),
    "transparency": lambda path: _clear(picture()).save(path),
    "grey with alpha": lambda path: _clear(picture().convert("L")).save(path),
    "palette": lambda path: picture().quantize(8).save(path),
    "16 bits": lambda path: Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(path),
}
IMAGES = ("source_image", "edited_image", "mask_image")
COMPANION = b"\0\5\x16\7\0\2\0\0Mac OS X        "
THIN = ((30, 30_000), (30_000, 30), (100, 20_000))


def cases() -> list[Case]:
    return [
        *(Case(f"mask file: {name}", partial(_mask_file, *how)) for name, how in MASKS.items()),
        *(Case(f"mask array: {name}", partial(_mask_array, *how)) for name, how in ARRAYS.items()),
        *(Case(f"--list: {name}", partial(_line, *how)) for name, how in LINES.items()),
        *(Case(f"--list: {name}", partial(_list_file, *how)) for name, how in FILES.items()),
        Case("--list: NONE and a byte-order mark", _list_kept),
        Case("prompts: a quotation mark that does not close", _table),
        *(Case(f"prompts: {name}", partial(_prompts, words)) for name, words in (
            ("blank", "a cat\n \t"), ("no words", "a cat\npage 3"),
        )),
        *(Case(f"packed: {name}", partial(_compressed, name)) for name in ("zstd", "lz4")),
        *(Case(f"packed: {name}", partial(_manifest, *how)) for name, how in MANIFESTS.items()),
        *(Case(f"packed row: {name}", partial(_row, *how)) for name, how in ROWS.items()),
        *(Case(f"table: {name}", partial(_blank, *how)) for name, how in BLANK.items()),
        Case("table: a null caption", _null_caption),
        Case("table: a null mask", _null_mask),
        *(Case(f"table: {name}", partial(_cells, name)) for name in CELLS),
        *(Case(f"one reader: {name}", partial(_read, write)) for name, write in PICTURES.items()),
        Case("a camera's JPEG: list and preparation", _camera),
        Case("a Mac's companions: pictures", _companions),
        Case("a Mac's companions: lists", _companion_lists),
        Case("a Mac's companions: tar", _companion_tar),
        *(Case(f"a mask of {a}x{b} in little memory", partial(_thin, (a, b))) for a, b in THIN),
        *(Case(f"a crop keeps the mask at the {side}", partial(_crop, side)) for side in ("left", "right")),
    ]  # fmt: skip


def _clear(image: Image.Image) -> Image.Image:
    image.putalpha(square_mask())
    return image


def _edit(folder: Path, **changes: Any) -> Any:
    """The second sample of a list of two edits."""
    picture(0).save(folder / "in.png")
    picture(1).save(folder / "b.png")
    square_mask().save(folder / "mask.png")
    line = {"file_name": "in.png", "edited_image": "b.png", "mask_image": "mask.png", "edit_prompt": "go"}
    lines = [line, {**line, **changes}]
    (folder / "edits.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    data = build_dataset(
        "editing_ultraedit", [folder / "edits.jsonl"], SIZE, None, grid=4, text_field="instruction"
    )
    assert data[0, 0].problem is None, data[0, 0].problem
    return data[1, 0]


def _mask_file(mask: Image.Image, fix: str, assets: Assets, folder: Path) -> None:
    mask.save(folder / "odd.png")
    problem = _edit(folder, mask_image="odd.png").problem
    assert problem and "odd.png" in problem and fix in problem, problem
    config = SampleEditing(image=str(folder / "in.png"), mask=str(folder / "odd.png"), prompt="make it red")
    refused(lambda: require_usable(read_jobs(config), config), "odd.png", fix)


def _mask_array(mask: np.ndarray, fix: str, assets: Assets, folder: Path) -> None:
    refused(lambda: edit_region(mask), "the mask: its values go from", fix)
    refused(lambda: edit_region(torch.tensor(mask)), "the mask: its values go from", fix)


def _listed(folder: Path, *changes: dict) -> SampleEditing:
    picture().save(folder / "in.png")
    (folder / "broken.png").write_bytes(png(picture())[:60])
    line = {"image": "in.png", "prompt": "make it red"}
    lines = [{**line, "output": f"{i}.png", **change} for i, change in enumerate(changes)]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return SampleEditing(list=str(folder / "list.jsonl"))


def _usable(config: SampleEditing) -> list:
    jobs = read_jobs(config)
    require_usable(jobs, config)
    return jobs


def _line(change: dict, message: str, assets: Assets, folder: Path) -> None:
    config = _listed(folder, {}, change)
    refused(lambda: _usable(config), "list.jsonl line 2: ", message)


def _list_file(content: bytes, message: str, assets: Assets, folder: Path) -> None:
    config = _listed(folder, {})
    (folder / "list.jsonl").write_bytes(content)
    refused(lambda: read_jobs(config), "list.jsonl", message)
    refused(lambda: read_t2i_jsonl([folder / "list.jsonl"])[0], "list.jsonl", message)


def _list_kept(assets: Assets, folder: Path) -> None:
    config = _listed(folder, {"mask": "NONE"}, {"mask": None}, {})
    file = folder / "list.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    jobs = _usable(config)
    assert [job.mask for job in jobs] == [None] * 3 and jobs[0].prompt == "make it red"


def _table(assets: Assets, folder: Path) -> None:
    (folder / "p.tsv").write_text(
        'Prompt\tKind\n"Open sign on a wall\tA\na cat\tA\na dog" toy\tB\na bird\tB\n'
    )
    assert len(read_captions(folder / "p.tsv")) == 4


def _prompts(words: str, assets: Assets, folder: Path) -> None:
    lines = words.splitlines()
    (folder / "p.tsv").write_text("id\tPrompt\n" + "".join(f"{i}\t{line}\n" for i, line in enumerate(lines)))
    refused(lambda: read_captions(folder / "p.tsv"), "p.tsv line 3", "say what you want to see")
    (folder / "p.txt").write_text(words)
    if lines[1].strip():  # blank lines of a text file are none
        refused(
            lambda: read_prompts(SampleT2I(prompt_file=str(folder / "p.txt"))), "p.txt line 2", "say what"
        )


def _compressed(kind: str, assets: Assets, folder: Path) -> None:
    synthetic(folder, 6, 3, cells=256)
    rewrite(folder, 1)
    assert PackedEdits(folder)[4, 0].problem is None

    def long(arrays: dict) -> None:
        """Texts that compression makes no smaller: the file is as long as it has to be."""
        text = np.random.default_rng(0).integers(0, 0x3F00, 8 * 100).astype("<u2").tobytes()
        arrays["text"] = pa.array([text] * 2 + [text[::-1]], pa.large_binary())

    rewrite(folder, 1, long, kind)
    refused(lambda: PackedEdits(folder)[4, 0], "is damaged", "compressed")


def _manifest(change: dict, named: str, assets: Assets, folder: Path) -> None:
    synthetic(folder, 6, 3)
    assert PackedEdits(folder)[0, 0].problem is None
    file = folder / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refused(lambda: PackedEdits(folder)[0, 0], named)


def _with_null(arrays: dict) -> None:
    values = arrays["source"].values.to_pylist()
    values[9 + 4] = None
    arrays["source"] = pa.FixedSizeListArray.from_arrays(pa.array(values, pa.uint16()), 9)


def _text(value: bytes) -> Callable[[dict], None]:
    return lambda arrays: arrays.update(text=pa.array([bytes(16), value, bytes(16)], pa.large_binary()))


ROWS = {
    "nulls among the codes": (_with_null, "source of row 1 holds nulls"),
    "a text of NaN": (_text(bytes(14) + b"\xc0\x7f"), "text of row 1 holds NaN"),
    "a text that is too long": (_text(bytes(16 * 121)), "121 tokens, at most 120"),
    "a mask of zeros": (
        lambda arrays: arrays.update(mask=pa.array([b"\xff\x80", bytes(2), b"\xff\x80"], pa.binary(2))),
        "mask of row 1 marks no cell",
    ),
}


def _row(change: Callable[[dict], None], message: str, assets: Assets, folder: Path) -> None:
    synthetic(folder, 6, 3)
    rewrite(folder, 1, change)
    packed = PackedEdits(folder)
    assert [packed[row, 0].problem for row in (0, 3, 5)] == [None] * 3
    problem = packed[4, 0].problem
    assert problem and message in problem, problem


def _two_rows(folder: Path, **changes: Any) -> tuple[Any, list[str], str]:
    """Row 1 of a table as read directly; the prepared list's lines; what its preparation names."""
    row = {"source_image": cell(png(picture(0))), "edited_image": cell(png(picture(1))),
           "mask_image": cell(png(square_mask())), "edit_prompt": "do it", "source_caption": "before",
           "target_caption": "after"}  # fmt: skip
    table = write_parquet(folder / "data" / "a.parquet", [row, {**row, **changes}], IMAGES)
    words = ["--data-path", table, "--output-dir", folder / "out", "--num-workers", 1]
    config = parse(PrepareUltraEditConfig, [*map(str, words), "--bad-sample-budget", "0.5"])
    listing = prepare_ultraedit(config)
    named = folder / "out" / "ultraedit_preparation" / "bad_items.txt"
    direct = build_dataset("editing_ultraedit", [table], SIZE, None, grid=4)[1, 7]
    text = named.read_text().strip() if named.exists() else ""
    return direct, listing.read_text().splitlines(), text


def _blank(column: str, text: str | None, assets: Assets, folder: Path) -> None:
    direct, lines, named = _two_rows(folder, **{column: text})
    assert len(lines) == 1 and direct.problem == named, f"{direct.problem} or {named}"
    assert f"a.parquet row 1: {column!r} must be a text" in named


def _null_caption(assets: Assets, folder: Path) -> None:
    direct, lines, named = _two_rows(folder, source_caption=None)
    assert len(lines) == 2 and direct.problem is None and not named


def _null_mask(assets: Assets, folder: Path) -> None:
    direct, lines, named = _two_rows(folder, mask_image=None)
    assert len(lines) == 2 and direct.problem is None and not named
    prepared = build_dataset(
        "editing_ultraedit", [next((folder / "out").glob("*.jsonl"))], SIZE, None, grid=4
    )
    assert torch.equal(prepared[1, 7].edit_mask, direct.edit_mask)
    assert torch.equal(prepared[1, 7].source, direct.source)


_LONE = [None, pa.py_buffer(np.array([0, 1, 4], "<i4").tobytes()), pa.py_buffer(b"a\xed\xa0\x80")]
CELLS = {
    "a date that is none": pa.array([1 << 45] * 2, pa.timestamp("s")),
    "bytes as a text": pa.array([b"1", b"2"]),
    "a lone surrogate": pa.Array.from_buffers(pa.string(), 2, _LONE),
}


def _cells(name: str, assets: Assets, folder: Path) -> None:
    """Named by row, and no traceback."""
    _two_rows(folder)
    path = folder / "data" / "a.parquet"
    table = pq.read_table(path)
    column = table.schema.get_field_index("edit_prompt")
    pq.write_table(table.set_column(column, "edit_prompt", CELLS[name]), path)
    words = ["--data-path", path, "--output-dir", folder / "again", "--num-workers", "1"]
    config = parse(PrepareUltraEditConfig, [*map(str, words), "--bad-sample-budget", "0.5"])
    try:
        prepare_ultraedit(config)
    except UserError as error:
        assert "a.parquet" in str(error) or "bad_items.txt" in str(error), error
    named = "".join(file.read_text() for file in (folder / "again").rglob("bad_items.txt"))
    assert "a.parquet row 1" in named, f"not named: {named}"


def _read(write: Callable[[Path], Any], assets: Assets, folder: Path) -> None:
    """Evaluators see what samplers see."""
    path = folder / "a.png"
    write(path)
    seen = np.asarray(load_image(path))
    assert (load_rgb(path) == seen).all()
    if path.stat().st_size and Image.open(path).getexif().get(0x0112):
        assert seen.shape[:2] == (SIZE, 8), "it is not turned"


def _camera(assets: Assets, folder: Path) -> None:
    stream, second = io.BytesIO(), Image.new("RGB", (8, 8), "red")
    picture().save(stream, "MPO", save_all=True, append_images=[second], quality=95)
    (folder / "phone.jpg").write_bytes(stream.getvalue())
    assert Image.open(folder / "phone.jpg").format == "MPO"
    sample = _edit(folder, file_name="phone.jpg")
    assert sample.problem is None, sample.problem
    assert load_image(folder / "phone.jpg").size == (SIZE, SIZE)
    for kept in ("original", "jpg", "png"):
        stored = check_image(ImageBytes(stream.getvalue(), "a.parquet row 3"), kept)
        assert stored.suffix == (".png" if kept == "png" else ".jpg")


def _companions(assets: Assets, folder: Path) -> None:
    for name in ("a.png", "deep/b.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        picture().save(folder / name)
    for name in ("._a.png", "deep/._b.png", "__MACOSX/._a.png", "__MACOSX/deep/b.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(COMPANION)
    assert list_images(folder) == [folder / "a.png", folder / "deep" / "b.png"]


def _companion_lists(assets: Assets, folder: Path) -> None:
    picture().save(folder / "a.png")
    (folder / "a.jsonl").write_text('{"image_path": "a.png", "text": "a"}\n')
    for name in ("._a.jsonl", "._a.png", ".DS_Store"):
        (folder / name).write_bytes(COMPANION)
    data = build_dataset("t2i", [folder], SIZE, None)
    assert len(data) == 1


def _companion_tar(assets: Assets, folder: Path) -> None:
    with tarfile.open(folder / "0.tar", "w") as archive:
        for name, content in (("._a.png", COMPANION), ("a.png", png(picture())), ("._a.txt", COMPANION),
                              ("a.txt", b"a cat"), ("__MACOSX/._a.png", COMPANION)):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (folder / "._0.tar").write_bytes(COMPANION)
    jobs = list(tar_jobs([folder / "0.tar"]))
    assert jobs, "nothing was found"
    assert not [job for job in jobs if "._" in str(getattr(job, "member", ""))]


def _thin(shape: tuple[int, int], assets: Assets, folder: Path) -> None:
    """The dense weights of the published rule took 2 to 4 GB."""

    def pool() -> None:
        assert pool_edit_mask(torch.ones(1, *shape), 16).all()

    message = in_little_memory(pool, 300 << 20)
    assert message == "accepted", message


def _crop(side: str, assets: Assets, folder: Path) -> None:
    """Whatever is drawn, a photograph's mask near one side is in the picture."""
    image = picture(0, 60).crop((0, 0, 60, 20))
    region = torch.zeros(20, 60)
    columns = slice(0, 4) if side == "left" else slice(56, 60)
    region[8:12, columns] = 1
    for seed in range(50):
        dice = np.random.default_rng(seed)
        assert joint_transform(image, image, region, 20, dice)[2].any(), f"lost with seed {seed}"
