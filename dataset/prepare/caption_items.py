"""The layouts that captioned images come in, read as items, and the check of one item.

An item says where its image and its caption are; `line_of` reads both and makes the line of the list.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from dataset.prepare.jobs import RECORD_BYTES, Job
from dataset.prepare.output import fingerprint
from dataset.prepare.pictures import SUFFIXES
from dataset.records.images import load_image
from dataset.records.jsonl import PathRules
from runtime.errors import UserError
from runtime.files import is_mac_metadata, require_regular
from runtime.texts import decode_text, read_json, refuse_other_encodings

CHUNK = 1000  # items in a job
IMAGE_SUFFIXES = {*SUFFIXES.values(), ".jpeg"}
IMAGE_COLUMNS = ("image_path", "image", "filepath", "file_path", "file_name", "filename", "path")
CAPTION_COLUMNS = ("caption", "text", "title")
_MAX_CAPTION_FILE = 1 << 20
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True)
class CaptionItem:
    """An image and its caption, not looked at yet.

    Attributes:
      image: its path as the data gives it; anything, where the data is wrong.
      caption: the text; anything, where the data is wrong.
      caption_file: .txt or .json that holds the text instead.
      origin: names the item.
    """

    image: Any
    caption: Any
    caption_file: Path | None
    origin: str


def folder_jobs(rules: PathRules) -> Iterator[Job]:
    """NAME.jpg with NAME.txt or NAME.json beside it, in a folder and its subfolders; nothing else is read.

    Args:
      rules: of that folder, an absolute path; linked folders are followed where it may be left.
    Raises:
      UserError: a folder that cannot be listed, or a linked one that is not to be followed.
    """
    root, follow_links = rules.folder, rules.allow_outside_root

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed: {error.strerror}")

    seen = set()
    for folder, subfolders, names in os.walk(root, onerror=refuse, followlinks=follow_links):
        links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
        if links and not follow_links:
            raise UserError(
                f"{folder}/{links[0]} is a link to a folder; pass --allow-outside-root to follow it"
            )
        subfolders[:] = sorted(name for name in subfolders if not is_mac_metadata(Path(name)))
        real = os.path.realpath(folder)
        if real in seen:  # links that lead back
            subfolders.clear()
            continue
        seen.add(real)
        relative = os.path.relpath(folder, root)
        prefix = hashlib.sha256(os.fsencode(relative)).hexdigest()[:16]
        yield from chunked_jobs(_folder_items(root, Path(folder), names), rules, prefix)


def _folder_items(root: Path, folder: Path, names: Sequence[str]) -> Iterator[CaptionItem]:
    stems: dict[str, dict[str, list[str]]] = {}
    for name in sorted(name for name in names if not is_mac_metadata(Path(name))):
        stem, suffix = os.path.splitext(name)  # a.jpg and a.JPG are two files
        stems.setdefault(stem, {}).setdefault(suffix.lower(), []).append(name)
    holds_images = any(IMAGE_SUFFIXES & set(found) for found in stems.values())
    for found in stems.values():
        images = [name for suffix, same in found.items() if suffix in IMAGE_SUFFIXES for name in same]
        captions = found.get(".txt") or found.get(".json") or []
        if not images and ".txt" in found and holds_images:
            for name in captions:
                yield CaptionItem(None, None, None, str(folder / name))
        for name in images:
            path, origin = folder / name, str(folder / name)
            if len(captions) > 1:
                origin += f" ({' and '.join(captions)} are both there; keep one)"
            caption = folder / captions[0] if len(captions) == 1 else None
            yield CaptionItem(str(path.relative_to(root)), None, caption, origin)


def table_items(file: Path, image_column: str | None, caption_column: str | None) -> Iterator[CaptionItem]:
    """The rows of a .csv or .tsv file with a header; in .tsv only a whole field in quotes is unquoted.

    Args:
      image_column: None = the first that is there of `IMAGE_COLUMNS`.
      caption_column: None = the first that is there of `CAPTION_COLUMNS`.
    Raises:
      UserError: no such columns, or a file that cannot be parsed.
    """
    is_tsv = file.suffix.lower() == ".tsv"
    require_regular(file, "a table")
    # Strict: a mark of quotation that does not close must not swallow the rows behind it.
    style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_tsv else {"strict": True}
    try:
        with file.open("rb") as stream:
            refuse_other_encodings(stream.read(4))
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            reader = csv.reader(stream, **style)
            header = next(reader, [])
            image = _column(file, header, image_column, IMAGE_COLUMNS, "--image-column")
            caption = _column(file, header, caption_column, CAPTION_COLUMNS, "--caption-column")
            for fields in filter(None, reader):  # a blank line is no row
                origin = f"{file} line {reader.line_num}"
                if is_tsv:
                    fields = [f[1:-1].replace('""', '"') if _QUOTED.fullmatch(f) else f for f in fields]
                if len(fields) != len(header):
                    origin += f" ({len(fields)} fields, the header has {len(header)})"
                    yield CaptionItem(None, None, None, origin)
                else:
                    yield CaptionItem(fields[image], fields[caption], None, origin)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except UserError as error:
        raise UserError(str(error) if str(file) in str(error) else f"{file}: {error}") from None
    except csv.Error as error:
        fix = "" if is_tsv else '; in a field in quotes write "" for a mark of quotation'
        raise UserError(f"{file} line {reader.line_num}: cannot be parsed: {error}{fix}") from None


def _column(file: Path, header: list[str], asked: str | None, known: Sequence[str], flag: str) -> int:
    wanted = known if asked is None else (asked,)
    found = next((name for name in wanted if name in header), None)
    if found is None:
        raise UserError(
            f"{file}: the first line must name the columns, one of them {' or '.join(wanted)}; "
            f"it has {', '.join(header) or 'nothing'}; {flag} names another"
        )
    if header.count(found) > 1:
        raise UserError(f"{file}: has the column {found} twice; keep one, or name another with {flag}")
    return header.index(found)


def llava_items(file: Path) -> Iterator[CaptionItem]:
    """The entries of LLaVA's JSON, {"image", "conversations"}: the first answer is the caption."""
    for number, entry in enumerate(read_json(file, list), start=1):
        origin = f"{file} item {number}"
        if not isinstance(entry, dict):
            yield CaptionItem(None, None, None, origin)
            continue
        turns = entry.get("conversations")
        answers = (
            turn.get("value")
            for turn in (turns if isinstance(turns, list) else [])
            if isinstance(turn, dict) and turn.get("from") in ("gpt", "assistant")
        )
        yield CaptionItem(entry.get("image"), next(answers, None), None, origin)


def chunked_jobs(items: Iterable[CaptionItem], rules: PathRules, prefix: str = "items") -> Iterator[Job]:
    """Jobs of up to `CHUNK` items; one is done again when a text of it, or one of its files, has changed."""
    iterator, number = iter(items), 0
    while chunk := list(islice(iterator, CHUNK)):
        files = [rules.folder / item.image for item in chunk if isinstance(item.image, str)]
        files += [item.caption_file for item in chunk if item.caption_file is not None]
        texts = [(item.image, item.caption) for item in chunk]
        stamp = fingerprint(files, f"{rules.allow_outside_root} {texts!r}")
        yield Job(f"{prefix}-{number:07d}", len(chunk), len(chunk) * RECORD_BYTES, stamp, chunk)
        number += 1


def line_of(item: CaptionItem, rules: PathRules, list_folder: Path) -> dict[str, Any]:
    """Reads an item's image and caption.

    Args:
      rules: of the root below which everything must lie.
      list_folder: where the list goes; absolute. Images below it are named from there.
    Returns:
      `image_path`, `text`, `width` and `height`.
    Raises:
      UserError: naming the item.
    """
    if not isinstance(item.image, str) or not item.image:
        raise UserError(f"{item.origin}: no image")
    path = Path(os.path.abspath(rules.resolve(item.image, item.origin)))
    text = item.caption
    if item.caption_file is not None:
        rules.resolve(str(item.caption_file), item.origin)
        text = _read_caption(item.caption_file)
    size = load_image(path).size
    shown = path.relative_to(list_folder) if path.is_relative_to(list_folder) else path
    return make_line(str(shown), text, size, item.origin)


def make_line(image_path: str, text: Any, size: tuple[int, int], origin: str) -> dict[str, Any]:
    """A line of the list; refuses a caption that is no text."""
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{origin}: no caption")
    for value in (image_path, text):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"{origin}: {value!r} is not UTF-8") from None
    return {"image_path": image_path, "text": text.strip(), "width": size[0], "height": size[1]}


def parse_caption(data: bytes, suffix: str, origin: str) -> Any:
    """The caption in the bytes of a .txt file, or under "caption" in those of a .json file."""
    try:
        text = decode_text(data)
        content = json.loads(text) if suffix == ".json" else text
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin}: not {suffix[1:]} in UTF-8: {error}") from None
    return content.get("caption") if isinstance(content, dict) else content


def _read_caption(path: Path) -> Any:
    require_regular(path, "a caption")
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_CAPTION_FILE + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > _MAX_CAPTION_FILE:
        raise UserError(f"{path}: longer than a caption can be")
    return parse_caption(data, path.suffix.lower(), str(path))
