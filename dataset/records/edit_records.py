"""What one edit pair is on disk, and UltraEdit's two forms of lists of them.

Both are lazy sequences of records: errors name file and line when a record is asked for, not before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import ClassVar

from dataset.choices import TEXT_FIELDS
from dataset.records.images import ImageSource
from dataset.records.jsonl import JsonLine, JsonlRecords, locate
from dataset.records.parquet import (
    ParquetImage,
    cell_value,
    read_text_columns,
    require_columns,
    require_text,
)
from runtime.errors import UserError
from runtime.logging import get_logger

log = get_logger(__name__)
INSTRUCTION, TARGET_CAPTION = TEXT_FIELDS
_NUM_LOOKED_AT = 256


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


class JsonlEditRecords(JsonlRecords):
    """`EditRecord`s of UltraEdit lists: `file_name`, `edited_image`, `mask_image` (ending in NONE = no mask).

    Their text is the features or the words under the keys that `text_keys` has for `text_field`.
    """

    text_keys: ClassVar[dict[str, tuple[str, str]]] = {  # features, words
        TARGET_CAPTION: ("target_caption_t5_path", "output_caption"),
        INSTRUCTION: ("edit_prompt_t5_path", "edit_prompt"),
    }

    def __init__(
        self,
        files: Sequence[str | Path],
        text_field: str = TARGET_CAPTION,
        allow_outside_root: bool = False,
        absolute_paths: bool = False,
    ) -> None:
        self.text_field = _known(text_field)
        super().__init__(files, self._parse_edit, allow_outside_root, absolute_paths)

    def texts_of(self, index: int, features_only: bool) -> list[str]:
        """Which of `TEXT_FIELDS` a line has, as features or, unless `features_only`, as words."""
        values = self.line(index).values
        return [
            field
            for field, (features, words) in self.text_keys.items()
            if values.get(features) or (not features_only and values.get(words))
        ]

    def _parse_edit(self, line: JsonLine) -> EditRecord:
        instruction = line.optional_text("edit_prompt")
        output_caption = line.optional_text("output_caption")
        keys = self.text_keys[self.text_field]
        text = instruction if self.text_field == INSTRUCTION else output_caption
        features = line.optional_path(keys[0])
        if features is None and text is None:
            wanted = " or ".join(map(repr, keys))
            raise UserError(f"{line.origin}: --text-field {self.text_field} needs the key {wanted}")
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


class ParquetEditRecords(Sequence):
    """`EditRecord`s of the hub's UltraEdit parquet files; texts are in memory, images stay inside the files.

    A file without a `mask_image` column (the free-form set) gives records without a mask.
    """

    text_keys: ClassVar[dict[str, tuple[str]]] = {
        TARGET_CAPTION: ("target_caption",),
        INSTRUCTION: ("edit_prompt",),
    }

    def __init__(self, files: Sequence[str | Path], text_field: str = TARGET_CAPTION) -> None:
        self.text_field = _known(text_field)
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
        text = texts["edit_prompt"] if self.text_field == INSTRUCTION else caption
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
        which, row = locate(self._ends, index)
        return self.files[which], which, row


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
