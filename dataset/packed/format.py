"""Packed training data on disk: codes, mask bits and text features of all samples, ready to be mapped.

A folder holds `manifest.json` and `shards/000000.arrow`, `shards/000001.arrow`, …: row i of the whole is
record i of the lists it was packed from, and every shard but the last has the same number of rows. A shard
is an Arrow IPC file of one record batch. pyarrow, which reads parquet here anyway, writes and reads such
files by itself; the `datasets` package would only put a cache and an index of its own around the same maps.

Columns (V views of each record, N cells of the grid, C text width):

codes             t2i: fixed list of V * N uint16, raster order
source, edited    editing: the same, before and after
mask              editing: V * ceil(N / 8) bytes of bits (`np.packbits`), 1 = edit; null = every cell
text              n * C bfloat16, little-endian: the n valid rows only
caption           what the image, or the edited image, shows; null where the list does not say
instruction       editing: what to do
origin            file and line
problem           fixed list of V strings: why a view cannot be used; null where it can

A shard's schema says itself how its columns are to be read (`PackedSettings.stamp`), so that a manifest that
says something else is noticed; shards from before that have no stamp.
"""

from __future__ import annotations

import json
import typing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from runtime.errors import UserError
from runtime.texts import read_json

KINDS = ("t2i", "editing")
FORMAT = 1
MANIFEST = "manifest.json"
SHARDS = "shards"
RECORDS = "packed_preparation"  # what `dataset.prepare.output.claimed` makes for a set named "packed"
PROGRAMS = {kind: f"autoregressive/train/extract_codes_{kind}.py" for kind in KINDS}
MAX_CODES = 1 << 16
TEXT_TYPE = "bfloat16 bits as uint16, little-endian"  # of the column "text", for readers that are not ours
STAMP = b"packed_settings"
_STAMPED = (
    "kind", "image_size", "grid", "codebook_size", "text_width", "max_text_tokens", "views",
    "tokenizer", "text_encoder",
)  # fmt: skip
_MAX_LIST = (1 << 31) - 1  # entries of an Arrow list of fixed length
_AT_LEAST_ONE = (
    "num_rows", "rows_per_shard", "image_size", "grid", "codebook_size", "text_width", "max_text_tokens",
    "views",
)  # fmt: skip
# What a mismatch with the manifest is put right with.
_FLAGS = {
    "tokenizer": "--vq-ckpt",
    "text_encoder": "--t5-path, --t5-model-type, --precision",
    "image_size": "--image-size",
    "codebook_size": "--vq-ckpt",
    "text_width": "--t5-feature-dim",
    "max_text_tokens": "--t5-feature-max-len, --cls-token-num",
    "mask_rule": "--mask-rule",
    "text_field": "--text-field",
}


@dataclass(frozen=True)
class PackedSettings:
    """What decides the content of the shards.

    Attributes:
      kind: "t2i" or "editing".
      num_rows: rows of all shards.
      rows_per_shard: rows of every shard but the last.
      image_size: side of the images, pixels.
      grid: cells along one side.
      codebook_size: number of different codes.
      text_width: C.
      max_text_tokens: longer texts were cut.
      views: crops and flips of each record.
      seed: view v of record i was drawn with `sample_seed(seed, v, i)`, as epoch v of a training draws it.
      center_crop: the crop is the middle.
      random_flip: half of the views are mirrored.
      mask_rule: of `pool_edit_mask`; None for t2i.
      text_field: which text the features are of; None for t2i.
      tokenizer: its `weights_fingerprint`.
      text_encoder: its fingerprint; None where the features came ready-made.
      data: fingerprint of the lists.
      mask_jitter: most pixels by which masks were resized and shifted (`jitter_mask`); None for none.
    """

    kind: str
    num_rows: int
    rows_per_shard: int
    image_size: int
    grid: int
    codebook_size: int
    text_width: int
    max_text_tokens: int
    views: int
    seed: int
    center_crop: bool
    random_flip: bool
    mask_rule: str | None
    text_field: str | None
    tokenizer: str
    text_encoder: str | None
    data: str
    format: int = FORMAT
    mask_jitter: int | None = None  # with a default: older manifests do not have it

    @property
    def num_cells(self) -> int:
        return self.grid**2

    @property
    def mask_bytes(self) -> int:
        """Bytes of one view's mask."""
        return -(-self.num_cells // 8)

    @property
    def num_shards(self) -> int:
        return -(-self.num_rows // self.rows_per_shard)

    @property
    def code_columns(self) -> tuple[str, ...]:
        return ("codes",) if self.kind == "t2i" else ("source", "edited")

    @property
    def string_columns(self) -> tuple[str, ...]:
        return ("caption", "origin") if self.kind == "t2i" else ("caption", "instruction", "origin")

    def rows_of(self, number: int) -> range:
        """The rows in shard `number`."""
        start = number * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.num_rows))

    def schema(self) -> pa.Schema:
        codes = pa.list_(pa.uint16(), self.views * self.num_cells)
        columns = [(name, codes) for name in self.code_columns]
        if self.kind == "editing":
            columns.append(("mask", pa.binary(self.views * self.mask_bytes)))
        columns.append(("text", pa.large_binary()))
        columns += [(name, pa.string()) for name in self.string_columns]
        return pa.schema([*columns, ("problem", pa.list_(pa.string(), self.views))])

    def stamp(self) -> dict[bytes, bytes]:
        """What a shard says of itself, as metadata of its schema: the settings that its bytes depend on."""
        return {STAMP: json.dumps({name: getattr(self, name) for name in _STAMPED}).encode()}

    def contradiction(self, metadata: dict[bytes, bytes] | None) -> str | None:
        """The first setting that a shard's stamp contradicts, in words; None where there is none."""
        if STAMP not in (metadata or {}):
            return None
        try:
            stamped = json.loads(metadata[STAMP])
            differing = next((name for name in _STAMPED if stamped[name] != getattr(self, name)), None)
        except (ValueError, KeyError, TypeError):
            return "its own settings cannot be read"
        if differing is None:
            return None
        there, here = _short(stamped[differing]), _short(getattr(self, differing))
        return f"it was written with {differing} {there}, the manifest says {here}"

    def least_bytes(self, num_rows: int) -> int:
        """What the codes of so many rows take in a shard that is not compressed."""
        return 2 * num_rows * self.views * self.num_cells * len(self.code_columns)

    def require_sense(self) -> None:
        """Raises a `ValueError` that names the first value that no packed data can have."""
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is none of {', '.join(KINDS)}")
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.seed < 0 or (self.mask_jitter or 0) < 0:
            raise ValueError(f"seed {self.seed} and mask_jitter {self.mask_jitter} must not be negative")
        if self.codebook_size > MAX_CODES:
            raise ValueError(f"codebook_size {self.codebook_size} is above {MAX_CODES}, what uint16 holds")
        if self.image_size % self.grid:
            raise ValueError(f"image_size {self.image_size} is no multiple of grid {self.grid}")
        if self.views * self.num_cells > _MAX_LIST:
            raise ValueError(f"views {self.views} of grid {self.grid} are more codes than a row can hold")


@dataclass(frozen=True)
class ShardInfo:
    """One shard in the manifest: its rows, file size, SHA-256, and how many of its views cannot be used."""

    rows: int
    bytes: int
    sha256: str
    problems: int


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says, and the folder, or the URL, it lies in."""

    folder: Path | str
    settings: PackedSettings
    shards: list[ShardInfo]

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self.settings),
            "text_type": TEXT_TYPE,
            "shards": [asdict(shard) for shard in self.shards],
        }


def shard_path(folder: Path, number: int) -> Path:
    return folder / SHARDS / f"{number:06d}.arrow"


def read_manifest(folder: str | Path) -> Manifest:
    """Reads a folder's manifest.

    Raises:
      UserError: no packed data, not packed to the end, another format, or a damaged manifest.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.exists():
        if (folder / RECORDS).is_dir():
            raise UserError(f"{folder}: packing has not come to its end; run the same command again")
        raise UserError(
            f"{folder}: no packed data here ({MANIFEST}); {' or '.join(PROGRAMS.values())} make it"
        )
    content = read_json(path, dict)
    if content.get("format") != FORMAT:
        raise UserError(f"{path}: format {content.get('format')!r}, this program reads {FORMAT}; pack again")
    try:
        text_type = content.pop("text_type", TEXT_TYPE)  # older manifests do not have it
        if text_type != TEXT_TYPE:
            raise ValueError(f"text_type {text_type!r}, this program reads {TEXT_TYPE!r}")
        shards = [_checked(ShardInfo, shard) for shard in content.pop("shards")]
        settings = _checked(PackedSettings, content)
        settings.require_sense()
        _require_shards(settings, shards)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); run the packing command again") from None
    return Manifest(folder, settings, shards)


def require_same(
    manifest: Manifest, tokenizer_fingerprint: str, text_encoder_fingerprint: str | None, **settings: Any
) -> None:
    """Refuses packed data that does not go with a run.

    Args:
      tokenizer_fingerprint: `weights_fingerprint` of the run's tokenizer.
      text_encoder_fingerprint: of the run's text encoder; None where it has none. Data packed from ready-made
        features goes with any.
      **settings: further values of `PackedSettings` that the run relies on.
    Raises:
      UserError: names each difference, what was packed and what the run has.
    """
    here = {"tokenizer": tokenizer_fingerprint, "text_encoder": text_encoder_fingerprint, **settings}
    if None in (text_encoder_fingerprint, manifest.settings.text_encoder):
        del here["text_encoder"]
    differing = []
    for name, value in here.items():
        packed = getattr(manifest.settings, name)
        if packed != value:
            differing.append(
                f"{name.replace('_', ' ')} {_short(packed)} there, {_short(value)} here ({_FLAGS[name]})"
            )
    if differing:
        raise UserError(
            f"{manifest.folder} was packed for another run: {'; '.join(differing)}. "
            f"Give what it was packed with, or pack again with {PROGRAMS[manifest.settings.kind]}"
        )


def _require_shards(settings: PackedSettings, shards: list[ShardInfo]) -> None:
    """Raises a `ValueError` that names the first shard that cannot be what the settings say."""
    if len(shards) != settings.num_shards:
        raise ValueError(
            f"num_rows {settings.num_rows} in shards of rows_per_shard {settings.rows_per_shard} are "
            f"{settings.num_shards} shards, it names {len(shards)}"
        )
    for number, shard in enumerate(shards):
        rows = len(settings.rows_of(number))
        if shard.rows != rows:
            raise ValueError(f"shards: number {number} has {shard.rows} rows, num_rows makes {rows} of it")
        if not 0 <= shard.problems <= rows * settings.views:
            raise ValueError(f"shards: number {number} has {shard.problems} problems in {rows} rows")
        least = settings.least_bytes(rows)
        if shard.bytes < least:
            raise ValueError(
                f"shards: number {number} has {shard.bytes} bytes, {rows} rows of views {settings.views} and "
                f"grid {settings.grid} take at least {least}"
            )


def _checked(kind: type, values: dict[str, Any]) -> Any:
    """`kind(**values)`, with the type of each value verified."""
    made = kind(**values)
    types = typing.get_type_hints(kind)
    for field in fields(kind):
        value = getattr(made, field.name)
        # To Python, true and false are whole numbers.
        is_bool = isinstance(value, bool) and types[field.name] is not bool
        if is_bool or not isinstance(value, types[field.name]):
            raise TypeError(f"{field.name} {value!r} is of the wrong type")
    return made


def _short(value: Any) -> str:
    """A value as a message shows it: fingerprints by their first digits."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
