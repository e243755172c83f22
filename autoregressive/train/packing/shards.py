"""Encodes a training set into packed shards: what extract_codes_t2i.py and extract_codes_editing.py share.

Each rank takes whole shards, and batches never cross a shard, so that a shard's bytes depend neither on the
number of ranks nor on where an earlier run was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from autoregressive.train.inputs import Encoders
from autoregressive.train.packing.config import PackingConfig
from dataset.batches import EditBatch, T2IBatch, Text, collate_samples
from dataset.data_order import sample_seed
from dataset.packed.format import MANIFEST, SHARDS, PackedSettings
from dataset.packed.writer import PackedWriter, ShardColumns, ShardNote, pack_text
from dataset.prepare.output import check_disk, claimed, fingerprint, require_budget
from dataset.records.edit_records import EditRecord
from dataset.records.t2i_records import T2IRecord
from dataset.t2i import T2IDataset
from dataset.t2i_editing import EditingDataset
from language.text_features import count_stored_tokens
from runtime.checkpoint import weights_fingerprint
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.files import file_sha256, without_mac_metadata
from runtime.logging import get_logger, progress

log = get_logger("packing")
NUM_ESTIMATED = 256  # records whose texts are measured for the disk estimate
STRING_BYTES = 400  # about what captions, instruction and origin of a row take
Images = T2IDataset | EditingDataset


def packed_settings(
    dataset: Images,
    encoders: Encoders,
    config: PackingConfig,
    *,
    views: int = 1,
    seed: int = 0,
    **of_kind: str,
) -> PackedSettings:
    """What the shards of `dataset` will hold; `of_kind`: the settings that only edits have."""
    edits = isinstance(dataset, EditingDataset)
    encoder, tokenizer = encoders.text_encoder, encoders.tokenizer
    return PackedSettings(
        kind="editing" if edits else "t2i",
        num_rows=len(dataset),
        rows_per_shard=config.rows_per_shard,
        image_size=config.image_size,
        grid=config.image_size // tokenizer.config.downsampling,
        codebook_size=tokenizer.config.codebook_size,
        text_width=encoders.text_width,
        max_text_tokens=encoders.max_tokens,
        views=views,
        seed=seed,
        center_crop=dataset.center_crop if edits else True,
        random_flip=dataset.random_flip if edits else False,
        mask_jitter=(dataset.mask_jitter or None) if edits else None,
        mask_rule=of_kind.get("mask_rule"),
        text_field=of_kind.get("text_field"),
        tokenizer=weights_fingerprint(tokenizer),
        text_encoder=None if encoder is None else encoder.fingerprint(),
        data=_data_fingerprint(config.data_path),
    )


def pack(
    dataset: Images, encoders: Encoders, settings: PackedSettings, config: PackingConfig, ranks: Distributed
) -> None:
    """Makes the shards that are missing, then the manifest.

    Raises:
      UserError: a folder that holds other data, too little disk space, texts without an encoder, or too many
        records that cannot be used.
    """
    folder = Path(config.packed_path)
    with ExitStack() as held:
        if ranks.is_main:
            held.enter_context(claimed(folder, "packed", asdict(settings), [MANIFEST, SHARDS]))
        ranks.barrier()
        writer = PackedWriter(folder, settings)
        notes = _gather(ranks, _find_finished(writer, dataset, ranks))
        missing = [number for number in range(settings.num_shards) if number not in notes]
        if ranks.is_main and missing:
            rows = sum(len(settings.rows_of(number)) for number in missing)
            check_disk(folder, rows * _row_bytes(dataset, encoders, settings))
            writer.remove_manifest()
        ranks.barrier()
        mine = missing[ranks.rank :: ranks.world_size]
        notes |= _gather(ranks, _make_shards(writer, mine, dataset, encoders, config, ranks))
        if ranks.is_main:
            _finish(writer, [notes[number] for number in range(settings.num_shards)], config)


def _gather(ranks: Distributed, notes: dict[int, ShardNote]) -> dict[int, ShardNote]:
    return {number: note for part in ranks.gather_objects(notes) for number, note in part.items()}


def _find_finished(writer: PackedWriter, dataset: Images, ranks: Distributed) -> dict[int, ShardNote]:
    """Shards of this rank's share that need no work: whole, and what could not be used still cannot."""
    finished = {}
    share = range(ranks.rank, writer.settings.num_shards, ranks.world_size)
    bar = progress(share, desc="looking for finished shards", unit="shard", disable=not ranks.is_main)
    for number in bar:
        note = writer.finished(number)
        if note is not None and not any(
            _view(dataset, writer.settings, row, view).problem is None for row, view, _ in note.problems
        ):
            finished[number] = note
    return finished


def _finish(writer: PackedWriter, notes: Sequence[ShardNote], config: PackingConfig) -> None:
    problems = [message for note in notes for _, _, message in note.problems]
    num_good = writer.settings.num_rows * writer.settings.views - len(problems)
    # Before the manifest: what is over the budget stays refused by training too.
    listing = writer.folder / "unusable.txt"
    require_budget(problems, len(problems), num_good, config.bad_sample_budget, listing)
    manifest = writer.write_manifest(notes)
    log.info(
        "%s: %d rows, %d shard(s), %s; train with --packed-data %s",
        *(writer.folder, writer.settings.num_rows, len(notes)),
        *(tqdm.format_sizeof(sum(shard.bytes for shard in manifest.shards), "B"), writer.folder),
    )


def _view(dataset: Images, settings: PackedSettings, row: int, view: int):
    return dataset[row, sample_seed(settings.seed, view, row)]


class _Rows(Dataset):
    """All views of a record, and its strings."""

    def __init__(self, dataset: Images, settings: PackedSettings) -> None:
        self.dataset, self.settings = dataset, settings

    def __getitem__(self, row: int) -> tuple[list, dict[str, str | None]]:
        samples = [_view(self.dataset, self.settings, row, view) for view in range(self.settings.views)]
        try:
            strings = _strings(self.dataset.records[row])
        except UserError:  # the samples tell the problem
            strings = {}
        return samples, strings


def _strings(record: T2IRecord | EditRecord) -> dict[str, str | None]:
    if isinstance(record, T2IRecord):
        return {"caption": record.text}
    return {"caption": record.output_caption, "instruction": record.instruction}


def _collate(rows: list) -> tuple[T2IBatch | EditBatch, list[dict[str, str | None]]]:
    return collate_samples([sample for samples, _ in rows for sample in samples]), [s for _, s in rows]


def _make_shards(
    writer: PackedWriter,
    numbers: Sequence[int],
    dataset: Images,
    encoders: Encoders,
    config: PackingConfig,
    ranks: Distributed,
) -> dict[int, ShardNote]:
    settings = writer.settings
    step = max(1, config.batch_size // settings.views)

    def batches() -> Iterator[list[int]]:
        for rows in map(settings.rows_of, numbers):
            yield from (list(rows[start : start + step]) for start in range(0, len(rows), step))

    loader = iter(
        DataLoader(
            _Rows(dataset, settings),
            batch_sampler=batches(),
            collate_fn=_collate,
            num_workers=config.num_workers,
            pin_memory=ranks.device.type == "cuda",
        )
    )
    total = sum(len(settings.rows_of(number)) for number in numbers)
    notes = {}
    with progress(total=total, desc="packing", unit="row", disable=not ranks.is_main) as bar:
        for number in numbers:
            shard = _ShardInMaking(settings)
            while len(shard.strings) < len(settings.rows_of(number)):
                batch, strings = next(loader)
                shard.add(batch, strings, encoders)
                bar.update(len(strings))
            notes[number] = writer.write(number, shard.columns(encoders, config.batch_size))
    return notes


class _ShardInMaking:
    """Collects the batches of one shard."""

    def __init__(self, settings: PackedSettings) -> None:
        self.settings = settings
        self.codes: list[np.ndarray] = []
        self.masks: list[np.ndarray] = []
        self.texts: list[Text | None] = []
        self.strings: list[dict[str, str | None]] = []
        self.problems: list[list[str | None]] = []

    def add(self, batch: T2IBatch | EditBatch, strings: list[dict], encoders: Encoders) -> None:
        views = self.settings.views
        edits = isinstance(batch, EditBatch)
        images = torch.stack([batch.source, batch.edited]) if edits else batch.image[None]
        codes = encoders.codes(images.flatten(0, 1)).view(len(images), len(strings), views, -1)
        self.codes.append(codes.numpy().astype(np.uint16))
        if edits:
            self.masks.append(batch.edit_mask.view(len(strings), views, -1).numpy())
        for row, row_strings in enumerate(strings):
            problems = batch.problems[row * views : (row + 1) * views]
            texts = batch.texts[row * views : (row + 1) * views]
            self.texts.append(next((t for t, p in zip(texts, problems, strict=True) if p is None), None))
            self.problems.append(problems)
            self.strings.append({**row_strings, "origin": batch.origins[row * views]})

    def columns(self, encoders: Encoders, batch_size: int) -> ShardColumns:
        codes = np.concatenate(self.codes, axis=1)
        return ShardColumns(
            codes=dict(zip(self.settings.code_columns, codes, strict=True)),
            masks=np.concatenate(self.masks) if self.masks else None,
            texts=self._pack_texts(encoders, batch_size),
            strings={name: [row.get(name) for row in self.strings] for name in self.settings.string_columns},
            problems=self.problems,
        )

    def _pack_texts(self, encoders: Encoders, batch_size: int) -> list[bytes]:
        """Each text's features; equal strings are encoded once."""
        limit = self.settings.max_text_tokens
        words = list(dict.fromkeys(text for text in self.texts if isinstance(text, str)))
        packed: dict[str, bytes] = {}
        for start in range(0, len(words), batch_size):
            some = words[start : start + batch_size]
            packed |= {
                text: pack_text(f, limit) for text, f in zip(some, encoders.features(some), strict=True)
            }
        return [
            b"" if text is None else packed[text] if isinstance(text, str) else pack_text(text, limit)
            for text in self.texts
        ]


def _row_bytes(dataset: Images, encoders: Encoders, settings: PackedSettings) -> int:
    """About what a row takes, from the lengths of some of the texts."""
    lengths, words = [], []
    for row in range(0, len(dataset), max(1, len(dataset) // NUM_ESTIMATED)):
        try:
            record = dataset.records[row]
            if record.text_feature_path is None:
                words.append(record.text)
            else:
                lengths.append(count_stored_tokens(record.text_feature_path, settings.text_width))
        except UserError:  # the work will name it
            continue
    if encoders.text_encoder is None:
        encoders.features(words[:1])  # refuses strings before the work starts
    else:
        lengths += encoders.text_encoder.count_tokens(words)
    tokens = np.mean(np.minimum(lengths, settings.max_text_tokens)) if lengths else settings.max_text_tokens
    codes = settings.views * (2 * settings.num_cells * len(settings.code_columns) + settings.mask_bytes)
    return int(codes + 2 * settings.text_width * tokens + STRING_BYTES)


def _data_fingerprint(data_paths: Sequence[str]) -> str:
    """Tells lists apart, by their lines; parquet files, which hold the images, by their sizes and times."""
    digest = sha256()
    for path in map(Path, data_paths):
        for file in without_mac_metadata(path.glob("*.jsonl")) if path.is_dir() else [path]:
            try:
                part = fingerprint([file]) if file.suffix == ".parquet" else file_sha256(file)
            except OSError as error:
                raise UserError(f"{file}: cannot be read: {error.strerror}") from None
            digest.update(f"{file.name} {part}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()
