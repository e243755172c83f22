"""Datasets over packed training data (`dataset.packed.format`): nothing is decoded or held in memory.

dataset = PackedEdits("data/ultraedit_packed")
require_same(dataset.manifest, weights_fingerprint(tokenizer), text_encoder.fingerprint(), image_size=256)
sample = dataset[index, seed]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset.batches import EditSample, T2ISample, blank_text
from dataset.edit_masks import full_mask
from dataset.packed.format import PackedSettings
from dataset.packed.remote import DataCache, RemoteFolder, is_url
from dataset.packed.stores import LocalFolder, ShardStore, damaged, require_length
from language.text_features import TextFeatures
from runtime.errors import UserError
from runtime.files import utf8_name


class _Packed(Dataset):
    """What both kinds share. Shards are mapped when a row of theirs is first read, in each process by itself.

    Attributes:
      manifest: what the folder holds and how it was made.
    """

    kind: ClassVar[str]

    def __init__(
        self, folder: str | Path, text_dtype: torch.dtype = torch.float32, cache: DataCache | None = None
    ) -> None:
        """
        Args:
          folder: holds `manifest.json`; a path, or a URL that fsspec knows.
          text_dtype: of the text features, which are stored in bfloat16; float32 holds the same values in
            twice the bytes, and loader processes have to hand them over.
          cache: where the shards of a URL go.
        Raises:
          UserError: no packed data of this kind, or a shard that is missing or not as long as it should be.
        """
        self._store = _store(folder, cache)
        self.manifest = self._store.manifest
        self.settings = self.manifest.settings
        self.text_dtype = text_dtype
        if self.settings.kind != self.kind:
            raise UserError(f"{folder}: packed for {self.settings.kind}, not for {self.kind} training")
        self._shards: dict[int, _Shard] = {}

    def __len__(self) -> int:
        return self.settings.num_rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}

    def strings(self, index: int) -> dict[str, str | None]:
        """The caption, the instruction and the origin of a row; origin is never None."""
        shard, row = self._find(index)
        return {name: shard.string(name, row) for name in self.settings.string_columns}

    def _find(self, index: int) -> tuple[_Shard, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, row = divmod(index, self.settings.rows_per_shard)
        shard = self._shards.get(number) if self._store.use(number) else None
        if shard is None:
            num_bytes, name = self.manifest.shards[number].bytes, self._store.name(number)
            with self._store.held(number) as path:
                shard = _Shard(path, self.settings, num_bytes, number, name)
            # The disk has its space again once a file that went is mapped nowhere.
            self._shards = {other: s for other, s in self._shards.items() if self._store.has(other)}
            self._shards[number] = shard
        return shard, row

    def _blank(self) -> tuple[Tensor, TextFeatures]:
        """Codes and text of a row that cannot be used."""
        return torch.zeros(self.settings.num_cells, dtype=torch.int32), blank_text(self.settings.text_width)


def _store(folder: str | Path, cache: DataCache | None) -> ShardStore:
    if not is_url(folder):
        return LocalFolder(folder)
    if cache is None:
        raise UserError(f"{folder}: a set at a URL needs a cache: --data-cache-dir")
    return RemoteFolder(str(folder), cache)


class PackedT2I(_Packed):
    """Captioned images: `dataset[index, seed]` is a `T2ISample` with codes (N,) int32 as its `image`.

    A record that could not be used when it was packed is a sample with that `problem`; so is a row that holds
    what cannot be, which is verified when it is read. A shard that is damaged as a whole is a `UserError`.
    """

    kind = "t2i"

    def __getitem__(self, key: tuple[int, int]) -> T2ISample:
        index, seed = key
        shard, row = self._find(index)
        view, origin = seed % self.settings.views, shard.origin(row)
        try:
            shard.require_usable(row, view)
            codes, text = shard.codes("codes", row, view), shard.text(row, self.text_dtype)
        except _UnusableRow as problem:
            return T2ISample(*self._blank(), seed, origin, str(problem))
        return T2ISample(codes, text, seed, origin)


class PackedEdits(_Packed):
    """Edits: `dataset[index, seed]` is an `EditSample` with codes (N,) int32 in the place of the images.

    A record that could not be used when it was packed is a sample with that `problem`, and so is a damaged
    row, as in `PackedT2I`.
    """

    kind = "editing"

    def __init__(
        self,
        folder: str | Path,
        text_dtype: torch.dtype = torch.float32,
        cache: DataCache | None = None,
        *,
        full_mask: bool = False,
    ) -> None:
        """
        Args:
          full_mask: edit every cell whatever the mask says.
        """
        super().__init__(folder, text_dtype, cache)
        self.full_mask = full_mask

    def __getitem__(self, key: tuple[int, int]) -> EditSample:
        index, seed = key
        shard, row = self._find(index)
        view, origin = seed % self.settings.views, shard.origin(row)
        try:
            shard.require_usable(row, view)
            mask = full_mask(self.settings.grid) if self.full_mask else shard.mask(row, view)
            source, edited = (shard.codes(name, row, view) for name in ("source", "edited"))
            text = shard.text(row, self.text_dtype)
        except _UnusableRow as problem:
            blank, text = self._blank()
            return EditSample(blank, blank, blank.bool(), text, seed, origin, str(problem))
        return EditSample(source, edited, mask, text, seed, origin)


def open_packed(
    kind: str,
    folder: str | Path,
    text_dtype: torch.dtype = torch.float32,
    cache: DataCache | None = None,
    *,
    full_mask: bool = False,
) -> PackedT2I | PackedEdits:
    """The dataset of a folder packed for `kind` ("t2i" or "editing"); `full_mask` as in `PackedEdits`."""
    if kind == "t2i":
        return PackedT2I(folder, text_dtype, cache)
    return PackedEdits(folder, text_dtype, cache, full_mask=full_mask)


class _UnusableRow(UserError):
    """A view of a row cannot be used: as noted when it was packed, or because the row is damaged."""


class _Shard:
    """One mapped shard."""

    def __init__(self, path: Path, settings: PackedSettings, num_bytes: int, number: int, name: str) -> None:
        """
        Args:
          name: of the file, for messages.
        """
        self._name, self._settings = name, settings
        require_length(path, num_bytes, name)
        mapped = self._map(path, num_bytes)
        batch = self._read(mapped, len(settings.rows_of(number)))
        shape = (batch.num_rows, settings.views, -1)
        # Nulls take copies of what is mapped, and only damaged shards have any.
        self._nulls = {name: _rows_with_nulls(batch.column(name)) for name in settings.code_columns}
        self._codes = {
            name: batch.column(name).values.fill_null(0).to_numpy().reshape(shape)
            for name in settings.code_columns
        }
        _, offsets, rows = batch.column("text").buffers()
        self._text_offsets = np.frombuffer(offsets, "<i8")
        start = 0 if rows is None else rows.address - mapped.data_ptr()
        self._text = mapped[start : start + (0 if rows is None else rows.size)]
        self._strings = {name: batch.column(name) for name in settings.string_columns}
        problems = batch.column("problem").values
        self._problems = problems if problems.null_count < len(problems) else None
        self._mask = batch.column("mask") if settings.kind == "editing" else None

    def _map(self, path: Path, num_bytes: int) -> Tensor:
        """The file as (num_bytes,) uint8.

        Not by `pa.memory_map`: that asks the kernel to read a whole record batch where one row is wanted.
        This map keeps no file open either, so that there may be thousands; nobody writes to it.
        """
        try:
            with utf8_name(path) as name:
                return torch.from_file(name, shared=False, size=num_bytes, dtype=torch.uint8)
        except (OSError, RuntimeError) as error:
            raise self._damaged(f"cannot be mapped: {error}") from None

    def _read(self, mapped: Tensor, num_rows: int) -> pa.RecordBatch:
        """The only record batch, with everything verified but the codes and features themselves."""
        try:
            options = pa.ipc.IpcReadOptions(use_threads=False)  # threads do not outlive a fork
            reader = pa.ipc.open_file(pa.py_buffer(mapped.numpy()), options=options)
            if reader.num_record_batches != 1 or not reader.schema.equals(self._settings.schema()):
                raise self._damaged("its columns are not those of the manifest")
            batch = reader.get_batch(0)
            batch.validate(full=True)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(str(error)) from None
        if batch.num_rows != num_rows:
            raise self._damaged(f"{batch.num_rows} rows, {num_rows} expected")
        contradiction = self._settings.contradiction(reader.schema.metadata)
        if contradiction is not None:
            raise self._damaged(contradiction)
        self._require_mapped(batch, mapped)
        return batch

    def _require_mapped(self, batch: pa.RecordBatch, mapped: Tensor) -> None:
        """Refuses columns that Arrow had to unpack: their bytes are not those of the file, which is read."""
        start = mapped.data_ptr()
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for buffer in column.buffers():
                inside = buffer is None or (
                    start <= buffer.address and buffer.address + buffer.size <= start + len(mapped)
                )
                if not inside and buffer.size:
                    raise self._damaged(
                        f"its column {name} is compressed (zstd or lz4), which cannot be mapped; "
                        "write it without compression"
                    )

    def codes(self, name: str, row: int, view: int) -> Tensor:
        """(N,) int32."""
        if row in self._nulls[name]:
            raise self._unusable(row, f"{name} of row {row} holds nulls")
        codes = self._codes[name][row, view]
        if codes.max() >= self._settings.codebook_size:
            raise self._unusable(
                row,
                f"{name} of row {row} up to {codes.max()}, the codebook has {self._settings.codebook_size}",
            )
        return torch.from_numpy(codes.astype(np.int32))

    def mask(self, row: int, view: int) -> Tensor:
        """(N,) bool."""
        bits = self._mask[row]
        if not bits.is_valid:
            return full_mask(self._settings.grid)
        size = self._settings.mask_bytes
        mask = np.unpackbits(
            np.frombuffer(bits.as_buffer(), np.uint8, size, view * size), count=self._settings.num_cells
        )
        if not mask.any():
            raise self._unusable(row, f"mask of row {row} marks no cell to edit")
        return torch.from_numpy(mask.view(bool))

    def text(self, row: int, dtype: torch.dtype) -> TextFeatures:
        """All its rows are valid, and all their numbers finite."""
        start, end = self._text_offsets[row : row + 2]
        width = self._settings.text_width
        if start == end or (end - start) % (2 * width):
            raise self._unusable(row, f"text of row {row}: {end - start} bytes for a width of {width}")
        stored = self._text[start:end].view(torch.bfloat16).view(-1, width)
        if len(stored) > self._settings.max_text_tokens:
            most = self._settings.max_text_tokens
            raise self._unusable(row, f"text of row {row}: {len(stored)} tokens, at most {most} were kept")
        if not torch.isfinite(stored).all():
            raise self._unusable(row, f"text of row {row} holds NaN or infinity")
        embeddings = stored.to(dtype, copy=True)
        return TextFeatures(embeddings, torch.ones(len(embeddings), dtype=torch.bool))

    def string(self, name: str, row: int) -> str | None:
        return self._strings[name][row].as_py()

    def origin(self, row: int) -> str:
        """File and line that a row was packed from; where that is lost, the shard and the row."""
        return self.string("origin", row) or f"{self._name} row {row}"

    def require_usable(self, row: int, view: int) -> None:
        """Raises why a view of a row cannot be used, if packing found that."""
        if self._problems is not None:
            problem = self._problems[row * self._settings.views + view].as_py()
            if problem is not None:
                raise _UnusableRow(problem)

    def _unusable(self, row: int, reason: str) -> _UnusableRow:
        """`reason` names the row; so does the origin."""
        return _UnusableRow(f"{self.origin(row)}: {self._damaged(reason)}")

    def _damaged(self, reason: str) -> UserError:
        return damaged(self._name, reason)


def _rows_with_nulls(column: pa.FixedSizeListArray) -> frozenset[int]:
    """The rows that are null, or hold a null."""
    if not column.null_count and not column.values.null_count:
        return frozenset()
    nulls = column.values.is_null().to_numpy(zero_copy_only=False).reshape(len(column), -1).any(axis=1)
    nulls |= column.is_null().to_numpy(zero_copy_only=False)
    return frozenset(np.flatnonzero(nulls).tolist())
