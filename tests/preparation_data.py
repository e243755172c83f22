"""Small published-format inputs, and what the tests of the preparation programs ask of all of them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from runtime.files import write_atomic

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def cell(data: bytes | None) -> dict[str, Any]:
    return {"bytes": data, "path": None}


def write_parquet(path: Path, rows: list[dict], images: tuple[str, ...], row_group_size: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = [
        (name, IMAGE if name in images else pa.int64() if name in ("idx", "turn_index") else pa.string())
        for name in rows[0]
    ]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(fields)), path, row_group_size=row_group_size)
    return path


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """What a second run must not touch: inode and time of every file."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def kill_after(monkeypatch, module: str, writes: int) -> None:
    """Lets `writes` calls of a module's `write_atomic` through; the next one dies halfway, like a kill."""
    left = [writes]

    def dying(path, write):
        left[0] -= 1
        if left[0] < 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.{1}.tmp").write_bytes(b"half")
            raise Killed
        write_atomic(path, write)

    monkeypatch.setattr(f"{module}.write_atomic", dying)


def no_space(monkeypatch, free: int = 1000) -> None:
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr("dataset.prepare.output.shutil.disk_usage", lambda _: usage)
