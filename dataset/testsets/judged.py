"""GEdit-Bench and ImgEdit-Bench: instructions without masks, whose results other programs judge.

GEdit-Bench (Step1X-Edit), parquet files of the hub's stepfun-ai/GEdit-Bench: key, task_type, instruction,
instruction_language ("en" or "cn"), input_image_raw and input_image. Its judges look for
`fullset/<task_type>/<language>/<key>.png`, and beside it for the input as `<key>_SRCIMG.png`.

ImgEdit-Bench, a list {key: {id, prompt, edit_type}} (`singleturn.json`, `basic_edit.json`, `UGE_edit.json`)
and the pictures at `id` below a folder. Its judge looks for `<key>.png`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.choices import LANGUAGES
from dataset.records.images import ImageSource
from dataset.records.jsonl import require_files
from dataset.records.parquet import ParquetImage, read_text_rows, require_columns, require_text
from runtime.errors import UserError
from runtime.files import without_mac_metadata
from runtime.texts import read_json, text_under

_COLUMNS = ("key", "task_type", "instruction", "instruction_language")
_IMAGES = ("input_image_raw", "input_image")


@dataclass(frozen=True)
class JudgedItem:
    """One edit to make.

    Attributes:
      key: where its result goes, below the folder of results.
      source: the picture to edit.
      instruction: what to do.
      shown: what the judges are shown as the picture before, where they want a copy of it.
    """

    key: str
    source: ImageSource
    instruction: str
    shown: ImageSource | None = None

    @property
    def shown_key(self) -> str:
        """Where that copy goes."""
        return f"{self.key.removesuffix('.png')}_SRCIMG.png"


def read_gedit(root: str | Path, languages: Collection[str] = LANGUAGES) -> list[JudgedItem]:
    """Reads GEdit-Bench's items in some languages, in the order of its files.

    Args:
      root: the folder of the parquet files, or the one above its `data/`.
    Raises:
      UserError: no such files, or a row that cannot be used; names file and row.
    """
    root = Path(root)
    files = [f for place in (root, root / "data") for f in without_mac_metadata(place.glob("*.parquet"))]
    if not files:
        raise UserError(
            f"{root}: holds no parquet files; give the folder of the hub's stepfun-ai/GEdit-Bench"
        )
    items: dict[str, JudgedItem] = {}
    for file in files:
        require_columns(file, _IMAGES)
        for row, values in enumerate(read_text_rows(file, _COLUMNS)):
            origin = f"{file} row {row}"
            texts = [require_text(values[column], column, origin) for column in _COLUMNS]
            key, task, instruction, language = texts
            if language not in LANGUAGES:
                raise UserError(
                    f"{origin}: instruction_language must be one of {LANGUAGES}, got {language!r}"
                )
            names = [_plain(name, column, origin) for name, column in ((task, "task_type"), (key, "key"))]
            result = f"fullset/{names[0]}/{language}/{names[1]}.png"
            if result in items:
                raise UserError(f"{origin}: {result} is the result of {items[result].source.path} row "
                                f"{items[result].source.row} too; take one of them out")  # fmt: skip
            source, shown = (ParquetImage(file, row, column) for column in _IMAGES)
            items[result] = JudgedItem(result, source, instruction, shown)
    chosen = [item for item in items.values() if item.key.split("/")[2] in languages]
    if not chosen:
        raise UserError(f"{root}: no item in {', '.join(languages)}; it has other languages")
    return chosen


def read_imgedit_bench(root: str | Path, listing: str | Path | None = None) -> list[JudgedItem]:
    """Reads ImgEdit-Bench's items, in the order of the list.

    Args:
      root: the folder of the pictures.
      listing: the list; None = `singleturn.json` in `root`, where `Benchmark.tar` has it.
    Raises:
      UserError: no list, or an item that cannot be used; names it.
    """
    file = Path(listing) if listing is not None else imgedit_listing(root)
    folder = Path(root).resolve()
    items = []
    for key, entry in read_json(file, dict, "give ImgEdit-Bench's list with --edit-json").items():
        origin = f"{file}: item {key!r}"
        values = {name: text_under(entry, name, origin) for name in ("id", "prompt")}
        source = (folder / values["id"]).resolve()
        if not source.is_relative_to(folder):
            raise UserError(f"{origin}: {values['id']} leads out of {folder}")
        items.append(JudgedItem(f"{_plain(key, 'key', origin)}.png", source, values["prompt"]))
    if not items:
        raise UserError(f"{file}: holds no item")
    require_files((item.source for item in items), named_in=file)
    return items


def imgedit_listing(root: str | Path) -> Path:
    """The list that `Benchmark.tar` has beside its pictures."""
    return Path(root) / "singleturn.json"


def _plain(name: Any, what: str, origin: str) -> str:
    if name in ("", ".", "..") or any(character in name for character in "/\\\0"):
        raise UserError(f"{origin}: {what} {name!r} must be a plain file name")
    return name
