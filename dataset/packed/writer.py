"""Writes packed training data (`dataset.packed.format`), shard by shard, by any number of processes.

A shard is written beside and renamed, then noted in `packed_preparation/<number>.json`: what has a note that
fits is not made again. The manifest comes last, so that training cannot start on half of the data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from dataset.packed.format import (
    MANIFEST,
    MAX_CODES,
    RECORDS,
    Manifest,
    PackedSettings,
    ShardInfo,
    shard_path,
)
from language.text_features import TextFeatures
from runtime.errors import UserError
from runtime.files import file_sha256, write_atomic
from runtime.texts import write_json


@dataclass
class ShardColumns:
    """The content of a shard: R rows of V views.

    Attributes:
      codes: for each column of codes (R, V, N) uint16.
      masks: (R, V, N) bool; None for t2i.
      texts: R times the bytes of `pack_text`, empty where no view can be used.
      strings: for each column of strings R of them.
      problems: R times V; None = the view can be used.
    """

    codes: dict[str, np.ndarray]
    masks: np.ndarray | None
    texts: list[bytes]
    strings: dict[str, list[str | None]]
    problems: list[list[str | None]]


@dataclass(frozen=True)
class ShardNote:
    """What is remembered of a finished shard.

    Attributes:
      bytes: of its file.
      sha256: of its file.
      problems: (row of the whole set, view, message) of what cannot be used.
    """

    bytes: int
    sha256: str
    problems: list[list]


class PackedWriter:
    """Writes the shards of one folder, which `dataset.prepare.output.claimed` holds."""

    def __init__(self, folder: str | Path, settings: PackedSettings) -> None:
        if settings.codebook_size > MAX_CODES:
            raise UserError(
                f"the tokenizer has {settings.codebook_size} codes, uint16 holds {MAX_CODES}; "
                "train from the images instead"
            )
        self.folder, self.settings = Path(folder), settings

    def finished(self, number: int) -> ShardNote | None:
        """The note of a shard if it is whole, byte for byte; reads all of it."""
        path = shard_path(self.folder, number)
        try:
            note = ShardNote(**json.loads(self._note_path(number).read_text()))
            whole = path.stat().st_size == note.bytes and file_sha256(path) == note.sha256
        except (OSError, ValueError, TypeError):
            return None
        return note if whole else None

    def write(self, number: int, columns: ShardColumns) -> ShardNote:
        """Writes shard `number`, whole or not at all."""
        rows = self.settings.rows_of(number)
        assert len(columns.problems) == len(rows), "not the rows of this shard"
        batch = _record_batch(columns, self.settings)
        schema = batch.schema.with_metadata(self.settings.stamp())
        path = shard_path(self.folder, number)

        def write(temporary: Path) -> None:
            with temporary.open("wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                writer.write_batch(batch)

        write_atomic(path, write)
        problems = [
            [row, view, message]
            for row, messages in zip(rows, columns.problems, strict=True)
            for view, message in enumerate(messages)
            if message is not None
        ]
        note = ShardNote(path.stat().st_size, file_sha256(path), problems)
        write_json(self._note_path(number), asdict(note))
        return note

    def remove_manifest(self) -> None:
        """Before a shard changes: the manifest no longer tells the truth."""
        (self.folder / MANIFEST).unlink(missing_ok=True)

    def write_manifest(self, notes: Sequence[ShardNote]) -> Manifest:
        """Ends the work; `notes` of all shards, in order."""
        shards = [
            ShardInfo(len(self.settings.rows_of(number)), note.bytes, note.sha256, len(note.problems))
            for number, note in enumerate(notes)
        ]
        manifest = Manifest(self.folder, self.settings, shards)
        write_json(self.folder / MANIFEST, manifest.to_json())
        return manifest

    def _note_path(self, number: int) -> Path:
        return self.folder / RECORDS / f"{number:06d}.json"


def pack_text(features: TextFeatures, max_tokens: int) -> bytes:
    """The valid rows, at most `max_tokens` of them, in bfloat16, little-endian."""
    rows = features.rows(max_tokens).detach().to("cpu", torch.bfloat16).contiguous()
    return rows.view(torch.int16).numpy().astype("<i2").tobytes()


def _record_batch(columns: ShardColumns, settings: PackedSettings) -> pa.RecordBatch:
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(
            pa.array(codes.reshape(-1)), settings.views * settings.num_cells
        )
        for name, codes in columns.codes.items()
    }
    if columns.masks is not None:
        bits = np.packbits(columns.masks, axis=-1).reshape(len(columns.masks), -1)
        whole = columns.masks.all(axis=(1, 2))
        masks = [None if every else row.tobytes() for every, row in zip(whole, bits, strict=True)]
        arrays["mask"] = pa.array(masks, pa.binary(settings.views * settings.mask_bytes))
    arrays["text"] = pa.array(columns.texts, pa.large_binary())
    for name, values in columns.strings.items():
        arrays[name] = pa.array([_storable(value) for value in values], pa.string())
    problems = pa.array([_storable(message) for row in columns.problems for message in row], pa.string())
    arrays["problem"] = pa.FixedSizeListArray.from_arrays(problems, settings.views)
    schema = settings.schema()
    return pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)


def _storable(text: str | None) -> str | None:
    """Half a surrogate pair, which JSON lists and file names can hold, has no UTF-8."""
    return None if text is None else text.encode(errors="backslashreplace").decode()
