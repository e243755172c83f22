"""Images and texts inside parquet files, read row by row."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from runtime.errors import UserError
from runtime.files import require_regular


@dataclass(frozen=True)
class ParquetImage:
    """An image held in one cell of a parquet file, see `image_bytes`.

    Stands where a `Path` stands: `load_image` takes either.
    """

    path: Path
    row: int
    column: str

    def open(self, mode: str = "rb") -> IO[bytes]:
        """The image file's bytes as a stream."""
        return io.BytesIO(image_bytes(self._cell(), str(self)))

    def is_null(self) -> bool:
        """Whether the cell holds nothing at all, UltraEdit's other sign for "no mask"."""
        return self._cell() is None

    def _cell(self) -> Any:
        group, offset = _row_group_of(self.path, self.row)
        return _read_column(self.path, group, self.column)[offset].as_py()

    def __str__(self) -> str:
        return f"{self.path} row {self.row} {self.column}"


def image_bytes(cell: Any, origin: str) -> bytes:
    """The image file in a cell: bytes, or the hub's {bytes, path}."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise UserError(f"{origin}: no image bytes in this cell")
    return data


def require_columns(path: Path, required: Sequence[str]) -> list[str]:
    """The names of all columns of a parquet file.

    Raises:
      UserError: not a parquet file, or a required column is missing; names the file.
    """
    with _user_errors(path):
        names = list(pq.read_schema(arrow_source(path)).names)
    missing = [name for name in required if name not in names]
    if missing:
        raise UserError(f"{path}: lacks the column(s) {', '.join(missing)}; it has {', '.join(names)}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{path}: has the column(s) {', '.join(twice)} twice; keep one of each")
    return names


def read_text_columns(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
    """Reads the required columns and those of the optional ones that exist; errors as `require_columns`."""
    names = require_columns(path, required)
    columns = [*required, *(name for name in optional if name in names)]
    with _user_errors(path):
        return pq.ParquetFile(arrow_source(path)).read(columns).select(columns)


def read_text_rows(path: Path, required: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of `read_text_columns`; raises as that and as `cell_value`."""
    table = read_text_columns(path, required)
    for row in range(table.num_rows):
        yield {name: cell_value(table[name], row, name, f"{path} row {row}") for name in required}


def cell_value(column: pa.Array | pa.ChunkedArray, row: int, name: str, origin: str) -> Any:
    """A cell as a Python value.

    Raises:
      UserError: Arrow holds what Python cannot, such as a text that is not UTF-8, or a date beyond all dates.
    """
    try:
        return column[row].as_py()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise UserError(f"{origin}: {name!r} cannot be read: {error}") from None


def arrow_source(path: Path) -> str | IO[bytes]:
    """What Arrow opens for a file: it takes names as UTF-8, and relative ones with a colon as addresses."""
    name = os.path.abspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        return path.open("rb")
    return name


def require_text(value: Any, column: str, origin: str, *, optional: bool = False) -> str | None:
    """A cell's text, which must not be blank; None for null where the text is optional.

    Preparation and direct reading both ask here, so that they refuse the same rows.
    """
    if optional and value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{origin}: {column!r} must be a text, got {value!r}")
    return value


@contextmanager
def _user_errors(path: Path) -> Iterator[None]:
    require_regular(path, "a parquet file")
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as a parquet file: {error}") from None


@lru_cache(maxsize=64)
def _row_group_ends(path: Path) -> list[int]:
    with _user_errors(path):
        metadata = pq.read_metadata(arrow_source(path))
    ends = [0]
    for group in range(metadata.num_row_groups):
        ends.append(ends[-1] + metadata.row_group(group).num_rows)
    return ends[1:]


def _row_group_of(path: Path, row: int) -> tuple[int, int]:
    start = 0
    for group, end in enumerate(_row_group_ends(path)):
        if row < end:
            return group, row - start
        start = end
    raise UserError(f"{path}: has {start} rows, row {row} was asked for")


# A row group is the smallest piece that parquet can decode. Three columns make one edit, so keep one edit's
# worth of row groups; no file handle is kept, so that forked loader workers share nothing.
@lru_cache(maxsize=3)
def _read_column(path: Path, group: int, column: str) -> pa.ChunkedArray:
    with _user_errors(path):
        return pq.ParquetFile(arrow_source(path)).read_row_group(group, columns=[column])[column]
