"""What one training example is on disk, and the readers of every list format.

The readers return lazy sequences of records (see `records.jsonl`): errors name file and line when a record
is asked for, not before.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import ClassVar

from dataset.choices import TEXT_FIELDS
from dataset.records.images import ImageSource
from dataset.records.jsonl import JsonLine, JsonlRecords, is_inside
from dataset.records.parquet import (
    ParquetImage,
    cell_value,
    read_text_columns,
    require_columns,
    require_text,
)
from runtime.errors import UserError
from runtime.files import without_mac_metadata
from runtime.logging import get_logger

log = get_logger(__name__)
INSTRUCTION, TARGET_CAPTION = TEXT_FIELDS
_NUM_LOOKED_AT = 256


@dataclass(frozen=True)
class T2IRecord:
    """One captioned image: at least one of `text` and `text_feature_path` is there.

    Attributes:
      image_path: the image.
      text: the caption.
      text_feature_path: .npy with the caption's features.
      short_text_feature_path: .npy with those of a shorter caption.
      origin: file and line.
    """

    image_path: Path
    text: str | None
    text_feature_path: Path | None
    short_text_feature_path: Path | None
    origin: str


@dataclass(frozen=True)
class EditRecord:
    """One edit pair.

    Attributes:
      source_path: image before; a path or a parquet cell, like the next two.
      edited_path: image after.
      mask_path: region (white = edit), or None when the whole image may change.
      text: what conditions the model: the instruction or the target caption, as the reader was told.
      text_feature_path: .npy with the features of that text.
      instruction: what to do.
      input_caption: describes the source.
      output_caption: describes the edited image.
      origin: file and line.
    """

    source_path: ImageSource
    edited_path: ImageSource
    mask_path: ImageSource | None
    text: str | None
    text_feature_path: Path | None
    instruction: str | None
    input_caption: str | None
    output_caption: str | None
    origin: str


def read_t2i_jsonl(
    files: Sequence[str | Path], allow_outside_root: bool = False, absolute_paths: bool = False
) -> JsonlRecords:
    """Reads lists of `image_path` with `embedding_path` (.npy) or `text` (a string, or a list: its first).

    Returns:
      A sequence of `T2IRecord`.
    """
    return JsonlRecords(files, _parse_t2i_line, allow_outside_root, absolute_paths)


def read_llamagen_folder(
    folder: str | Path,
    feature_folder: str | Path | None = None,
    short_feature_folder: str | Path | None = None,
    allow_outside_root: bool = False,
    absolute_paths: bool = False,
) -> JsonlRecords:
    """Reads LlamaGen's layout: a folder of jsonl files with `image_path` and `text`, features elsewhere.

    The features of a line are `<jsonl stem>/<line, from 0>.npy` or `<jsonl stem>/<image stem>.npy` there.

    Args:
      folder: holds the jsonl files.
      feature_folder: features of the captions; None = use the captions themselves.
      short_feature_folder: features of shorter captions, the same layout.
      allow_outside_root, absolute_paths: see `PathRules`.
    Returns:
      A sequence of `T2IRecord`.
    """
    files = without_mac_metadata(Path(folder).glob("*.jsonl"))
    if not files:
        raise UserError(f"{folder}: holds no *.jsonl file")
    parse = partial(
        _parse_llamagen_line,
        feature_folder=feature_folder and Path(feature_folder),
        short_feature_folder=short_feature_folder and Path(short_feature_folder),
    )
    return JsonlRecords(files, parse, allow_outside_root, absolute_paths)


def read_ultraedit_jsonl(
    files: Sequence[str | Path],
    text_field: str = "target_caption",
    allow_outside_root: bool = False,
    absolute_paths: bool = False,
) -> JsonlEditRecords:
    """Reads UltraEdit lists: `file_name`, `edited_image`, `mask_image` (ending in NONE = no mask), texts.

    Text "target_caption" is `target_caption_t5_path` (.npy) or `output_caption`; text "instruction" is
    `edit_prompt_t5_path` or `edit_prompt`.

    Returns:
      A sequence of `EditRecord`.
    """
    return JsonlEditRecords(files, _known(text_field), allow_outside_root, absolute_paths)


def read_ultraedit_parquet(
    files: Sequence[str | Path], text_field: str = "target_caption"
) -> ParquetEditRecords:
    """Reads the UltraEdit parquet files of the hub; the images stay inside them.

    Returns:
      A sequence of `EditRecord`.
    """
    return ParquetEditRecords(files, _known(text_field))


class JsonlEditRecords(JsonlRecords):
    """`EditRecord`s of UltraEdit lists; `text_field` says which text is theirs."""

    text_keys: ClassVar[dict[str, tuple[str, str]]] = {  # features, words
        TARGET_CAPTION: ("target_caption_t5_path", "output_caption"),
        INSTRUCTION: ("edit_prompt_t5_path", "edit_prompt"),
    }

    def __init__(
        self,
        files: Sequence[str | Path],
        text_field: str,
        allow_outside_root: bool = False,
        absolute_paths: bool = False,
    ) -> None:
        super().__init__(files, self._parse_edit, allow_outside_root, absolute_paths)
        self.text_field = text_field

    def texts_of(self, index: int, features_only: bool) -> list[str]:
        """Which of `TEXT_FIELDS` a line has, as features or, unless `features_only`, as words."""
        values = self.line(index).values
        return [
            field
            for field, (features, words) in self.text_keys.items()
            if values.get(features) or (not features_only and values.get(words))
        ]

    def _parse_edit(self, line: JsonLine) -> EditRecord:
        return _parse_edit_line(line, self.text_field)


class ParquetEditRecords(Sequence):
    """`EditRecord`s of UltraEdit parquet files; texts are in memory, images are read when they are loaded.

    A file without a `mask_image` column (the free-form set) gives records without a mask.
    """

    text_keys: ClassVar[dict[str, tuple[str]]] = {
        TARGET_CAPTION: ("target_caption",),
        INSTRUCTION: ("edit_prompt",),
    }

    def __init__(self, files: Sequence[str | Path], text_field: str) -> None:
        self.text_field = text_field
        self.files = [Path(file) for file in files]
        self._has_mask = [
            "mask_image" in require_columns(file, ("source_image", "edited_image")) for file in self.files
        ]
        self._texts = [
            read_text_columns(file, ("edit_prompt",), ("source_caption", "target_caption"))
            for file in self.files
        ]
        self._ends = list(accumulate(table.num_rows for table in self._texts))
        if not self._ends or self._ends[-1] == 0:
            raise UserError(f"no records in {', '.join(map(str, self.files)) or 'an empty list of files'}")

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> EditRecord:
        file, which, row = self._locate(index)
        table, origin = self._texts[which], self.origin(index)
        texts = {
            name: require_text(
                cell_value(table[name], row, name, origin), name, origin, optional=name != "edit_prompt"
            )
            for name in table.column_names
        }
        images = {
            name: ParquetImage(file, row, name) for name in ("source_image", "edited_image", "mask_image")
        }
        caption = texts.get("target_caption")
        text = texts["edit_prompt"] if self.text_field == "instruction" else caption
        if not text:
            raise UserError(f"{self.origin(index)}: no text for --text-field {self.text_field}")
        return EditRecord(
            source_path=images["source_image"],
            edited_path=images["edited_image"],
            mask_path=images["mask_image"] if self._has_mask[which] else None,
            text=text,
            text_feature_path=None,
            instruction=texts["edit_prompt"],
            input_caption=texts.get("source_caption"),
            output_caption=caption,
            origin=self.origin(index),
        )

    def texts_of(self, index: int, features_only: bool) -> list[str]:
        """As `JsonlEditRecords.texts_of`; such files hold words only."""
        _, which, row = self._locate(index)
        table = self._texts[which]
        return [
            field
            for field, (column,) in self.text_keys.items()
            if not features_only
            and column in table.column_names
            and cell_value(table[column], row, column, self.origin(index))
        ]

    def origin(self, index: int) -> str:
        """File and row of a record."""
        file, _, row = self._locate(index)
        return f"{file} row {row}"

    def _locate(self, index: int) -> tuple[Path, int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = bisect_right(self._ends, index)
        return self.files[which], which, index - (self._ends[which - 1] if which else 0)


def choose_text_field(
    records: JsonlEditRecords | ParquetEditRecords, wanted: str | None = None, *, features_only: bool = False
) -> None:
    """Sets which text of the records an editor is told.

    Args:
      wanted: the one that the user names; None takes what most of the records have, of equals the target
        caption, as published.
      features_only: words are of no use.
    Raises:
      UserError: none of the records looked at, evenly over the list, has the text that is wanted, or any.
    """
    looked_at = range(0, len(records), -(-len(records) // _NUM_LOOKED_AT))
    readable, counts = _count_texts(records, looked_at, features_only)
    if readable == 0:  # each line's problem is named when its turn comes
        return
    if features_only and not counts:  # there are words alone: so too
        _, counts = _count_texts(records, looked_at, False)
    chosen = max(records.text_keys, key=lambda field: counts[field]) if wanted is None else _known(wanted)
    named = [
        f"{counts[field]} have {field} ({' or '.join(keys)})" for field, keys in records.text_keys.items()
    ]
    found = f"of {readable} records looked at, {' and '.join(named)}"
    if counts[chosen] == 0:
        files, other = ", ".join(map(str, records.files)), ", ".join(filter(counts.get, TEXT_FIELDS))
        if other:
            raise UserError(f"{files}: no text for --text-field {chosen}: {found}; give --text-field {other}")
        raise UserError(f"{files}: no text to tell the model: {found}; each record needs one of them")
    if wanted is None:
        log.info("--text-field %s: %s", chosen, found)
    records.text_field = chosen


def _count_texts(
    records: JsonlEditRecords | ParquetEditRecords, indices: Sequence[int], features_only: bool
) -> tuple[int, Counter[str]]:
    """How many of the records can be read, and how many of these have each text."""
    readable, counts = 0, Counter()
    for index in indices:
        try:
            counts.update(records.texts_of(index, features_only))
        except UserError:
            continue
        readable += 1
    return readable, counts


def _known(text_field: str) -> str:
    if text_field not in TEXT_FIELDS:
        raise UserError(f"unknown text field {text_field!r}; choose one of {', '.join(TEXT_FIELDS)}")
    return text_field


def _parse_t2i_line(line: JsonLine) -> T2IRecord:
    features, text = line.optional_path("embedding_path"), line.caption("text")
    if features is None and text is None:
        raise UserError(f"{line.origin}: needs the key 'embedding_path' or 'text'")
    return T2IRecord(line.path("image_path"), text, features, None, line.origin)


def _parse_llamagen_line(
    line: JsonLine, feature_folder: Path | None, short_feature_folder: Path | None
) -> T2IRecord:
    image, text = line.path("image_path"), line.caption("text")
    features = _llamagen_features(feature_folder, line, image)
    if features is None and text is None:
        raise UserError(
            f"{line.origin}: lacks the key 'text', and no feature folder is given (--t5-feat-path)"
        )
    short_features = _llamagen_features(short_feature_folder, line, image)
    return T2IRecord(image, text, features, short_features, line.origin)


def _llamagen_features(folder: Path | None, line: JsonLine, image: Path) -> Path | None:
    """The one of the two published names that exists."""
    if folder is None:
        return None
    names = [folder / line.file.stem / f"{stem}.npy" for stem in (line.number - 1, image.stem)]
    candidates = list(dict.fromkeys(names))
    found = [path for path in candidates if path.exists()]
    if len(found) == 2:
        raise UserError(f"{line.origin}: both {found[0]} and {found[1]} exist; remove the one that is stale")
    if not found:
        raise UserError(f"{line.origin}: no text features at {' or '.join(map(str, candidates))}")
    if not line.rules.allow_outside_root and not is_inside(found[0], folder):
        raise UserError(f"{line.origin}: {found[0]} links outside {folder}; pass --allow-outside-root")
    return found[0]


def _parse_edit_line(line: JsonLine, text_field: str) -> EditRecord:
    instruction = line.optional_text("edit_prompt")
    output_caption = line.optional_text("output_caption")
    keys = JsonlEditRecords.text_keys[text_field]
    text = instruction if text_field == "instruction" else output_caption
    features = line.optional_path(keys[0])
    if features is None and text is None:
        raise UserError(f"{line.origin}: --text-field {text_field} needs the key {keys[0]!r} or {keys[1]!r}")
    return EditRecord(
        source_path=line.path("file_name"),
        edited_path=line.path("edited_image"),
        mask_path=line.mask_path("mask_image"),
        text=text,
        text_feature_path=features,
        instruction=instruction,
        input_caption=line.optional_text("input_caption"),
        output_caption=output_caption,
        origin=line.origin,
    )
