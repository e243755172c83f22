"""Reading of jsonl files, and the rules for the paths in them.

Opening a jsonl file only finds where its lines start; `records[i]` parses line i. A bad line is a `UserError`
that names file and line when it is asked for, so that training can skip, count and name it. The encoding is
that of `runtime.texts`.
"""

from __future__ import annotations

import codecs
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.files import require_regular
from runtime.texts import parse_json, refuse_other_encodings

NO_MASK = "NONE"
"""What a mask's value ends in where there is no mask: UltraEdit's sign."""


@dataclass(frozen=True)
class PathRules:
    """How the paths in a data file become paths on disk.

    Attributes:
      folder: the data file's folder: where relative paths are looked up, then the working directory.
      allow_outside_root: accept paths that end outside the folder they were looked up in.
      absolute_paths: the user wrote the data file: take the absolute paths in it as they are. Relative paths
        stay where they are looked up.
    """

    folder: Path
    allow_outside_root: bool = False
    absolute_paths: bool = False

    def resolve(self, text: str, origin: str) -> Path:
        """The path that `text` means; the file itself need not exist.

        Raises:
          UserError: the path, symbolic links followed, is neither below the folder nor, when found from
            there, below the working directory.
        """
        roots = [self.folder, Path.cwd()]
        try:
            found = next((root for root in roots if (root / text).exists()), self.folder)
            path = found / text
            # An absolute path was not looked up anywhere: either root may hold it.
            is_absolute = Path(text).is_absolute()
            accepted = self.allow_outside_root or (self.absolute_paths and is_absolute)
            allowed = roots if is_absolute else [found]
            inside = accepted or any(is_inside(path, root) for root in allowed)
        except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, links in a circle
            raise UserError(f"{origin}: the path {text!r} cannot be used: {error}") from None
        if not inside:
            own = " (to a training on a list of your own: --absolute-paths)" if is_absolute else ""
            raise UserError(
                f"{origin}: the path {text!r} leads outside the data folder {self.folder}; "
                f"move the file below it or pass --allow-outside-root{own}"
            )
        return path


def is_inside(path: Path, root: Path) -> bool:
    """Whether `path` is below `root`, with the symbolic links of both followed."""
    return path.resolve().is_relative_to(root.resolve())


def locate(ends: Sequence[int], index: int) -> tuple[int, int]:
    """Which of several sequences, one after the other, an index leads into, and where in it.

    Args:
      ends: the lengths of the sequences, added up.
    """
    which = bisect_right(ends, index)
    return which, index - (ends[which - 1] if which else 0)


@dataclass(frozen=True)
class JsonLine:
    """One parsed line of a jsonl file, with getters whose errors name the line."""

    values: dict[str, Any]
    file: Path
    number: int
    rules: PathRules

    @property
    def origin(self) -> str:
        return f"{self.file} line {self.number}"

    def text(self, key: str) -> str:
        """A required string."""
        if key not in self.values:
            present = ", ".join(map(repr, self.values))
            raise UserError(f"{self.origin}: lacks the key {key!r}; it has {present}")
        if not isinstance(self.values[key], str) or not self.values[key]:
            raise UserError(f"{self.origin}: {key!r} must be a non-empty string, got {self.values[key]!r}")
        return self.values[key]

    def optional_text(self, key: str) -> str | None:
        """A string that is not blank, or None where the key is missing or null."""
        if self.values.get(key) is None:
            return None
        text = self.text(key)
        if not text.strip():
            raise UserError(f"{self.origin}: {key!r} must say something, got {text!r}")
        return text

    def path(self, key: str) -> Path:
        """A required path."""
        return self.rules.resolve(self.text(key), self.origin)

    def optional_path(self, key: str) -> Path | None:
        """A path, or None where the key is missing or null."""
        return None if self.values.get(key) is None else self.path(key)

    def mask_path(self, key: str) -> Path | None:
        """A required path, or None where the key is null or ends in `NO_MASK`."""
        value = self.values.get(key, "")
        return None if value is None or self.text(key).endswith(NO_MASK) else self.path(key)

    def refuse_training_key(self) -> None:
        """Refuses the mask's key of training lists in a list of edits: it would change all of a picture."""
        if "mask_image" in self.values and "mask" not in self.values:
            raise UserError(f"{self.origin}: 'mask_image' is the key of training lists; here it is 'mask'")

    def require_files(self, *values: object) -> None:
        """Refuses those of `values` that are paths at which no file is."""
        for file in values:
            if not isinstance(file, Path):
                continue
            if not file.exists():
                raise UserError(f"{self.origin}: {file} does not exist")
            try:
                require_regular(file, "a picture")
            except UserError as error:
                raise UserError(f"{self.origin}: {error}") from None

    def caption(self, key: str) -> str | None:
        """A string, the first of a list of strings, or None where the key is missing or null."""
        value = self.values.get(key)
        if isinstance(value, list):
            if not value or not isinstance(value[0], str) or not value[0].strip():
                raise UserError(f"{self.origin}: {key!r} must begin with a non-empty string, got {value!r}")
            return value[0]
        return self.optional_text(key)


class JsonlRecords(Sequence):
    """The records of some jsonl files, one after the other, parsed when they are asked for."""

    def __init__(
        self,
        files: Sequence[str | Path],
        parse: Callable[[JsonLine], Any],
        allow_outside_root: bool = False,
        absolute_paths: bool = False,
    ) -> None:
        """
        Args:
          files: jsonl files; blank lines in them are skipped.
          parse: makes a record of a line.
          allow_outside_root, absolute_paths: see `PathRules`.
        Raises:
          UserError: a file is missing or all of them are empty.
        """
        self.files = [Path(file) for file in files]
        self.parse = parse
        self.allow_outside_root, self.absolute_paths = allow_outside_root, absolute_paths
        self._lines = [_find_lines(file) for file in self.files]
        self._ends = list(accumulate(len(starts) for starts, _ in self._lines))
        if not self._ends or self._ends[-1] == 0:
            raise UserError(f"no records in {', '.join(map(str, self.files)) or 'an empty list of files'}")

    def __len__(self) -> int:
        return self._ends[-1]

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Any:
        return self.parse(self.line(index))

    def line(self, index: int) -> JsonLine:
        """The line of a record, its values not looked at yet."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._read(*self._locate(index))

    def origin(self, index: int) -> str:
        """File and line of a record, also of one that cannot be parsed."""
        file, _, number = self._locate(index)
        return f"{file} line {number}"

    def _locate(self, index: int) -> tuple[Path, int, int]:
        which, within = locate(self._ends, index)
        starts, numbers = self._lines[which]
        return self.files[which], starts[within], numbers[within]

    def _read(self, file: Path, start: int, number: int) -> JsonLine:
        require_regular(file, "a list")  # it may have changed since it was opened
        try:
            with file.open("rb") as stream:
                stream.seek(start)
                data = stream.readline()
        except OSError as error:
            raise UserError(f"{file} line {number}: cannot be read: {error.strerror}") from None
        values = parse_json(data, dict, f"{file} line {number}")
        rules = PathRules(file.parent, self.allow_outside_root, self.absolute_paths)
        return JsonLine(values, file, number, rules)


def _find_lines(file: Path) -> tuple[array, array]:
    """Byte offset and number (from 1) of every line that is not blank."""
    starts, numbers, position = array("q"), array("q"), 0
    require_regular(file, "a list")
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if number == 1:
                    refuse_other_encodings(line)
                if line.removeprefix(codecs.BOM_UTF8).strip():
                    starts.append(position)
                    numbers.append(number)
                position += len(line)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return starts, numbers


def require_files(paths: Iterable[Path], named_in: str | Path) -> None:
    """Raises one `UserError` naming those of `paths` that do not exist, the first ten of them."""
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise UserError(f"{named_in}: names {len(missing)} missing file(s): {', '.join(missing[:10])}{more}")
