"""Small packed data sets, and shards written again with other content."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from dataset.packed.format import MANIFEST, PackedSettings, shard_path
from dataset.packed.writer import PackedWriter, ShardColumns


def synthetic(folder, num_rows: int, rows_per_shard: int, cells: int = 9) -> None:
    """Edits whose source is all `row % 1000`, as if just packed."""
    settings = PackedSettings(
        "editing", num_rows, rows_per_shard, 16 * int(cells**0.5), int(cells**0.5), 16384, 8, 120, 1, 0,
        True, False, "published", "instruction", "tokenizer", "encoder", "data",
    )  # fmt: skip
    writer, notes = PackedWriter(folder, settings), []
    for number in range(settings.num_shards):
        rows = (np.array(settings.rows_of(number)) % 1000).astype(np.uint16)
        codes = np.repeat(rows, cells).reshape(-1, 1, cells)
        strings = {name: [name] * len(rows) for name in settings.string_columns}
        columns = ShardColumns(
            {"source": codes, "edited": codes}, np.arange(len(codes) * cells).reshape(codes.shape) % 3 == 0,
            [np.arange(16, dtype="<u2").tobytes()] * len(rows), strings, [[None]] * len(rows),
        )  # fmt: skip
        notes.append(writer.write(number, columns))
    writer.write_manifest(notes)


def rewrite(folder, number: int, change=lambda arrays: None, compression=None, keep_stamp=True) -> None:
    """Writes a shard again with other columns, and the manifest with its new size."""
    path = shard_path(folder, number)
    reader = pa.ipc.open_file(pa.py_buffer(path.read_bytes()))
    batch, schema = reader.get_batch(0), reader.schema
    arrays = dict(zip(schema.names, batch.columns, strict=True))
    change(arrays)
    schema = schema if keep_stamp else schema.remove_metadata()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (
        pa.OSFile(str(path), "wb") as sink,
        pa.ipc.new_file(sink, schema, options=options) as writer,
    ):
        writer.write_batch(pa.RecordBatch.from_arrays(list(arrays.values()), schema=schema))
    content = json.loads((folder / MANIFEST).read_text())
    content["shards"][number]["bytes"] = path.stat().st_size
    (folder / MANIFEST).write_text(json.dumps(content))
