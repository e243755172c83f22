"""Rows of the hub's parquet files as files on disk: what UltraEdit, MagicBrush and Emu Edit share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.prepare.jobs import RECORD_BYTES, Job, Outcome, Result, Tick, UnreadableJob, run_jobs
from dataset.prepare.output import disk_bytes, fingerprint
from dataset.prepare.pictures import write_bytes
from dataset.records.parquet import arrow_source, cell_value, require_columns, require_text
from runtime.errors import UserError
from runtime.files import without_mac_metadata

_BATCH = 16  # rows in memory at once: a row group of images can take gigabytes
_SAMPLED_FILES, _SAMPLED_ROWS = 8, 4  # what the disk estimate looks at


@dataclass(frozen=True)
class Row:
    """One row of a parquet file: its values by column, a name for its files, and one for messages.

    `problem` is why the row cannot be used, whatever is made of it.
    """

    values: dict[str, Any]
    stem: str
    origin: str
    problem: str | None = None

    def text(self, column: str) -> str:
        """A required string that is not blank."""
        return require_text(self.values.get(column), column, self.origin)

    def optional_text(self, column: str) -> str | None:
        """A string, blank or not, or None where the column is missing or null."""
        value = self.values.get(column)
        if value is not None and not isinstance(value, str):
            raise UserError(f"{self.origin}: {column!r} must be a text, got {value!r}")
        return value


# Row -> its line of the list, and the files to write: {path below the output folder: bytes}.
Convert = Callable[[Row], tuple[dict[str, Any], dict[str, bytes]]]


def find_parquet(
    paths: Sequence[str | Path], required: Sequence[str], pattern: str = "*.parquet"
) -> list[Path]:
    """The parquet files that `paths` name, those of folders in the order of their names.

    Args:
      paths: files, and folders to search with their subfolders.
      required: columns that every file must have.
      pattern: of the names looked for in folders.
    Raises:
      UserError: none, one that cannot be read, or one without these columns.
    """
    files = []
    for path in map(Path, paths):
        found = without_mac_metadata(path.rglob(pattern)) if path.is_dir() else [path]
        if not found:
            raise UserError(f"{path} holds no {pattern}")
        files += found
    for file in files:
        require_columns(file, required)
    return list(dict.fromkeys(files))


def export_rows(
    records: Path,
    files: Sequence[Path],
    columns: Sequence[str],
    convert: Convert,
    *,
    num_workers: int | None,
    unit: str,
    retry_bad: bool = False,
) -> Outcome:
    """Writes what `convert` makes of every row; each row group is a job that a second run need not repeat.

    Args:
      records: folder of the records; the files go below the folder above it.
      files: with names of their own, for the output is named after them.
      columns: to read; those that a file lacks are left out.
      convert: raises `UserError` for a row that cannot be used.
      num_workers: threads; None = one a core.
      unit: of the progress bar.
      retry_bad: try row groups with bad rows again, for `convert` reads other files too.
    """
    folder = records.parent
    bytes_each = _mean_bytes(files, columns, convert)

    def make_jobs() -> Iterator[Job]:
        for file in files:
            metadata = pq.read_metadata(arrow_source(file))
            stamp = fingerprint([file])
            for group in range(metadata.num_row_groups):
                size = metadata.row_group(group).num_rows
                first_row = sum(metadata.row_group(before).num_rows for before in range(group))
                payload = (file, group, first_row)
                name = f"{file.stem}-{group:05d}"
                yield Job(name, size, round(size * bytes_each), stamp, payload, retry_bad)

    def work(job: Job, tick: Tick) -> Result:
        result = Result()
        for row in _read_rows(*job.payload, columns, job.size):
            try:
                line, contents = _converted(row, convert)
            except UserError as error:
                result.problems.append(str(error))
                tick(1)
                continue
            for name, data in contents.items():
                write_bytes(folder / name, data)
            result.lines.append(line)
            result.files += contents
            tick(1)
        return result

    return run_jobs(records, make_jobs, work, num_workers=num_workers, desc="preparing", unit=unit)


def _read_rows(file: Path, group: int, first_row: int, columns: Sequence[str], size: int) -> Iterator[Row]:
    number = first_row
    try:
        reader = pq.ParquetFile(arrow_source(file), pre_buffer=False)
        present = [name for name in columns if name in reader.schema_arrow.names]
        batches = reader.iter_batches(_BATCH, row_groups=[group], columns=present, use_threads=False)
        for batch in batches:
            for index in range(batch.num_rows):
                yield _row(batch, index, f"{file.stem}/{number:06d}", f"{file} row {number}")
                number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        rows = f"rows {first_row} to {first_row + size - 1}"
        raise UnreadableJob(f"{file}: {rows} cannot be read, download it again: {error}", size) from None


def _row(batch: pa.RecordBatch, index: int, stem: str, origin: str) -> Row:
    values, problem = {}, None
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            values[name] = cell_value(column, index, name, origin)
        except UserError as error:
            values[name], problem = None, str(error)
    return Row(values, stem, origin, problem)


def _converted(row: Row, convert: Convert) -> tuple[dict[str, Any], dict[str, bytes]]:
    """`convert(row)`; refuses a row whose line the list could not hold, such as dates, bytes, half a pair."""
    if row.problem is not None:
        raise UserError(row.problem)
    line, contents = convert(row)
    for key, value in line.items():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{row.origin}: {key!r} {value!r} cannot be written as JSON: {error}") from None
    return line, contents


def _mean_bytes(files: Sequence[Path], columns: Sequence[str], convert: Convert) -> float:
    """Disk space a row takes, from some rows of some files; a bad row counts with its images' bytes."""
    sizes = []
    for file in files[:: max(1, len(files) // _SAMPLED_FILES)]:
        if pq.read_metadata(arrow_source(file)).num_row_groups == 0:
            continue
        try:
            rows = _read_rows(file, 0, 0, columns, 0)
            sizes += [_bytes_of(row, convert) for row, _ in zip(rows, range(_SAMPLED_ROWS), strict=False)]
        except UnreadableJob:
            continue  # named when its turn comes
    return RECORD_BYTES + sum(sizes) / max(1, len(sizes))


def _bytes_of(row: Row, convert: Convert) -> int:
    try:
        contents = _converted(row, convert)[1].values()
    except UserError:
        cells = [cell for cell in row.values.values() if isinstance(cell, dict)]
        contents = [cell["bytes"] for cell in cells if isinstance(cell.get("bytes"), bytes)]
    return sum(disk_bytes(len(data)) for data in contents)
