"""Text and JSON: what people write, read whole; what is written here, whole or not at all.

Files are UTF-8; a byte-order mark before it, which Windows editors and Excel write, is skipped.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.files import require_regular, write_atomic

NOT_UTF8 = "backslashreplace"
"""How text is written that UTF-8 cannot hold: names of files are bytes, which Python reads as half pairs."""

_OTHER_MARKS = (  # UTF-32's first: it begins as UTF-16's
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def decode_text(data: bytes) -> str:
    """UTF-8, without the byte-order mark if it has one.

    Raises:
      UserError: another encoding, by name where that is plain; the caller says where.
    """
    refuse_other_encodings(data)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"not UTF-8 (byte {data[error.start]:#04x} at {error.start}); save the file as UTF-8"
        ) from None


def refuse_other_encodings(data: bytes) -> None:
    """Raises `UserError` where the first bytes of a file are those of UTF-16 or UTF-32."""
    found = next((name for mark, name in _OTHER_MARKS if data.startswith(mark)), None)
    if found is None and b"\0" in data[:2]:  # no mark, but half of the bytes of Latin letters are zero
        found = "UTF-16 or UTF-32, or no text"
    if found is not None:
        raise UserError(f"is {found}, not UTF-8; save the file as UTF-8")


def read_text(file: str | Path, fix: str = "") -> str:
    """A whole text file, see `decode_text`; errors name the file.

    Args:
      fix: said of a file that cannot be read: which one to give.
    """
    require_regular(file)
    try:
        return decode_text(Path(file).read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}{fix and f'; {fix}'}") from None
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def read_lines(file: str | Path, fix: str = "") -> list[str]:
    r"""The lines of a text file without their ends, see `read_text`.

    "\n", "\r\n" and "\r" end a line. Captions from the web hold other characters at which
    `str.splitlines` splits, such as U+2028.
    """
    lines = re.split(r"\r\n?|\n", read_text(file, fix))
    return lines if lines[-1] else lines[:-1]


def read_json(file: str | Path, kind: type, fix: str = "") -> Any:
    """Reads a json file whose outermost value is a `kind` (dict or list); errors name the file.

    A key that an object has twice is refused: the json module would keep the last and say nothing.

    Args:
      fix: see `read_text`.
    """
    return parse_json(read_text(file, fix), kind, file)


def write_text(path: str | Path, text: str) -> None:
    """Writes a file, whole or not at all, in UTF-8; what that cannot hold as its escapes, see `NOT_UTF8`."""
    write_atomic(path, lambda temporary: temporary.write_bytes(text.encode("utf-8", NOT_UTF8)))


def write_json(path: str | Path, content: Any, indent: int | None = 1, **options: Any) -> None:
    """As `write_text`, of JSON; `options` are those of `json.dumps`."""
    write_text(path, json.dumps(content, indent=indent, **options) + "\n")


def parse_json(text: str | bytes, kind: type, origin: str | Path) -> Any:
    """As `read_json`, of a text or of a file's bytes; `origin` names it in errors."""
    if isinstance(text, bytes):
        try:
            text = decode_text(text)
        except UserError as error:
            raise UserError(f"{origin}: not JSON: {error}") from None
    try:
        content = json.loads(text, object_pairs_hook=_unique)
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin}: not JSON: {error}") from None
    if not isinstance(content, kind):
        expected = {dict: "an object {...}", list: "a list [...]"}[kind]
        raise UserError(f"{origin}: must be {expected}, got {type(content).__name__}")
    return content


def text_under(entry: Any, key: str, origin: str) -> str:
    """The text that an object of a JSON file has under a key; refused if there is none, or only blanks."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{origin}: needs a text under the key {key!r}, got {value!r}")
    return value


def one_a_line(texts: Iterable[str]) -> str:
    """The content of a file with a line a text, whatever line breaks a text has in it."""
    return "".join(" ".join(text.splitlines()) + "\n" for text in texts)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"the key {twice!r} is there twice; keep one of them")
    return content


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; every row has a cell a heading."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
