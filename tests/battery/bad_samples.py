"""Test 7: a sample that cannot be used is skipped, counted and named; past the budget the run stops."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from autoregressive.train.config import EditingConfig
from autoregressive.train.stages import train_editing
from runtime.checkpoint import load_checkpoint
from runtime.config import parse
from runtime.distributed import ONE_RANK
from runtime.errors import UserError
from tests.battery.cases import Assets, Case

WIDTH = 16  # of the text features
NUM_SAMPLES = 4  # one batch a step, so that every step meets the bad one
Damage = Callable[[Path], Any]


def cases() -> list[Case]:
    kinds = {"features": FEATURES, "source": SOURCES, "image": IMAGES, "line": LINES, "mask": MASKS}
    return [
        Case(f"{kind}: {name}", partial(_run, kind, damage))
        for kind, damages in kinds.items()
        for name, damage in damages.items()
    ]


def _run(kind: str, damage: Any, assets: Assets, folder: Path) -> None:
    data, victim = _data(kind, assets, folder)
    if kind == "line":
        lines = data.read_text().splitlines()
        changed = damage(json.loads(lines[1]))
        lines[1] = changed if isinstance(changed, str) else json.dumps(changed)
        data.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    else:
        damage(victim)
    flags = [
        *assets.train_flags(),
        "--data-path",
        str(data),
        "--text-field",
        "instruction",
        "--max-steps",
        "2",
    ]
    flags += ["--mask_in_context", "--bad-sample-budget"]
    tolerant = parse(EditingConfig, [*flags, "1", "--results-dir", str(folder / "on")])
    train_editing(tolerant, ONE_RANK)
    done = load_checkpoint(folder / "on" / "checkpoints" / "0000002.pt")
    assert done["num_bad"] == 0 and done["sampler"]["epoch"] == 2, "two epochs, counted anew in each"
    strict = parse(EditingConfig, [*flags, "0.2", "--results-dir", str(folder / "off")])
    try:
        train_editing(strict, ONE_RANK)
    except UserError as error:
        named = "line 2" in str(error) or victim.name in str(error)
        assert "1 unusable samples" in str(error) and named, str(error)
    else:
        raise AssertionError("a quarter of the samples is bad, a fifth was allowed, and it went on")


def _data(kind: str, assets: Assets, folder: Path) -> tuple[Path, Path]:
    """A list of `NUM_SAMPLES` edits of its own, and the file of its second sample that is to be damaged."""
    source = assets.shapes / "train"
    lines = [json.loads(line) for line in (source / "editing.jsonl").read_text().splitlines()]
    lines = [line for line in lines if not line["mask_image"].endswith("NONE")][:NUM_SAMPLES]
    for number, line in enumerate(lines):
        for key in ("file_name", "edited_image", "mask_image"):
            name = f"{key}{number}.png"
            shutil.copyfile(source / line[key], folder / name)
            line[key] = name
        if kind == "features":
            line["edit_prompt_t5_path"] = f"features{number}.npy"
            np.save(folder / line["edit_prompt_t5_path"], _features())
    data = folder / "list.jsonl"
    data.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    keys = {"features": "edit_prompt_t5_path", "source": "file_name", "mask": "mask_image"}
    key = keys.get(kind, "edited_image")
    return data, folder / lines[1][key]


def _features() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 5, WIDTH)).astype(np.float32)


def _array(make: Callable[[], np.ndarray]) -> Damage:
    return lambda path: np.save(path, make(), allow_pickle=True)


def _bytes(make: Callable[[bytes], bytes]) -> Damage:
    return lambda path: path.write_bytes(make(path.read_bytes()))


def _header(shape: str) -> bytes:
    """A .npy file whose header claims a shape that its few bytes do not hold."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (118 - len(text) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)


def _with_value(value: float) -> np.ndarray:
    features = _features()
    features[0, 2, 3] = value
    return features


FEATURES: dict[str, Damage] = {
    "missing": lambda path: path.unlink(),
    "empty": _bytes(lambda data: b""),
    "text": _bytes(lambda data: b"no features"),
    "cut": _bytes(lambda data: data[:-7]),
    "fake zip": _bytes(lambda data: b"PK\x03\x04" + data),
    "two dimensions": _array(lambda: _features()[0]),
    "another width": _array(lambda: _features()[..., :-1]),
    "no tokens": _array(lambda: _features()[:, :0]),
    "strings": _array(lambda: np.array([["a"] * WIDTH])[None]),
    "objects": _array(lambda: np.array([[[{}] * WIDTH]], dtype=object)),
    "whole numbers": _array(lambda: np.ones((1, 5, WIDTH), np.int64)),
    "a huge shape": _bytes(lambda data: _header(f"(1, 100000000000, {WIDTH})")),
    "not a number": _array(lambda: _with_value(np.nan)),
    "infinity": _array(lambda: _with_value(np.inf)),
}


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _bombs(source: Path) -> None:
    """With a result and a mask of the same size, so that only the cap keeps them out."""
    for key in ("file_name", "edited_image", "mask_image"):
        Image.new("1", (8100, 8100), 1).save(source.with_name(source.name.replace("file_name", key)))


def _encoded(format: str, **options: Any) -> bytes:
    stream = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format=format, **options)
    return stream.getvalue()


def _instead(make: Callable[[Path], Any]) -> Damage:
    """Puts something else than a file in its place."""

    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def _flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


SOURCES: dict[str, Damage] = {"PNG bomb, 66 megapixels": _bombs}

IMAGES: dict[str, Damage] = {
    "missing": lambda path: path.unlink(),
    "empty": _bytes(lambda data: b""),
    "text": _bytes(lambda data: b"no picture"),
    "a web page": _bytes(lambda data: b"<!DOCTYPE html><title>404</title>"),
    "zeros": _bytes(lambda data: bytes(1000)),
    "PNG, first half": _bytes(lambda data: data[: len(data) // 2]),
    "PNG, header only": _bytes(lambda data: data[:33]),
    "PNG, a flipped byte": _bytes(lambda data: _flip(data, len(data) // 2)),
    "PNG, no pixels wide": _bytes(lambda data: _png_header(0, 24)),
    "PNG, more pixels than data": _bytes(lambda data: _png_header(500, 500)),
    "JPEG, first half": _bytes(lambda data: _encoded("JPEG")[:300]),
    "JPEG, first bytes": _bytes(lambda data: _encoded("JPEG")[:20]),
    "WebP, first half": _bytes(lambda data: _encoded("WEBP", lossless=True)[:600]),
    "GIF, first bytes": _bytes(lambda data: _encoded("GIF")[:100]),
    "BMP, first half": _bytes(lambda data: _encoded("BMP")[:900]),
    "TIFF": _bytes(lambda data: _encoded("TIFF")),
    "PPM": _bytes(lambda data: _encoded("PPM")),
    "EPS": _bytes(lambda data: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 24\n%%EndComments\n"),
    "SVG": _bytes(lambda data: b'<svg xmlns="http://www.w3.org/2000/svg" width="24" height="24"/>'),
    "a folder": _instead(Path.mkdir),
    "a pipe": _instead(os.mkfifo),
    "a link to nowhere": _instead(lambda path: path.symlink_to("nowhere.png")),
    "a link to itself": _instead(lambda path: path.symlink_to(path)),
    "a link out of the data": _instead(lambda path: path.symlink_to("/etc/hostname")),
}

LINES: dict[str, Callable[[dict], dict | str]] = {
    "no JSON": lambda line: "{file_name: 1}",
    "cut": lambda line: json.dumps(line)[:-10],
    "a list": lambda line: json.dumps(list(line)),
    "a number": lambda line: "7",
    "null": lambda line: "null",
    "nested too deeply": lambda line: "[" * 100000,
    "bytes that are no UTF-8": lambda line: '{"file_name": "\udcff\udcfe"}',
    "without a source": lambda line: {k: v for k, v in line.items() if k != "file_name"},
    "without a result": lambda line: {k: v for k, v in line.items() if k != "edited_image"},
    "without a text": lambda line: {k: v for k, v in line.items() if k != "edit_prompt"},
    "text is a number": lambda line: {**line, "edit_prompt": 3},
    "text is empty": lambda line: {**line, "edit_prompt": ""},
    "path is a list": lambda line: {**line, "file_name": [line["file_name"]]},
    "path holds a zero byte": lambda line: {**line, "file_name": "a\0b.png"},
    "path is too long": lambda line: {**line, "file_name": "a" * 5000 + ".png"},
}


def _mask(value: Any) -> Damage:
    return lambda path: Image.fromarray(value).save(path)


MASKS: dict[str, Damage] = {
    "missing": lambda path: path.unlink(),
    "empty file": _bytes(lambda data: b""),
    "text": _bytes(lambda data: b"no mask"),
    "first half": _bytes(lambda data: data[: len(data) // 2]),
    "marks nothing": _mask(np.zeros((24, 24), np.uint8)),
    "marks nothing clearly": _mask(np.full((24, 24), 127, np.uint8)),
    "another size": _mask(np.full((12, 24), 255, np.uint8)),
    "bomb": _bytes(lambda data: _png_header(30000, 30000)),
    "a folder": _instead(Path.mkdir),
    "opaque everywhere": _mask(np.full((24, 24, 4), (0, 0, 0, 255), np.uint8)),
}
