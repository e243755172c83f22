"""Files inside of ImgEdit's archives, read where they lie: nothing is unpacked.

An archive is an uncompressed tar, `NAME.tar`, or cut into `NAME.tar.split.000`, `.001`, … as published. A
folder `NAME` in which somebody has unpacked one serves too. A file is known by the last two parts of its
path, `<sample>/<file>`: what stands before them in an archive is not always what the parquet files say. Where
two files of an archive are known by the same, neither is read.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from sys import intern
from threading import Lock
from typing import NamedTuple

from dataset.records.jsonl import locate
from runtime.errors import UserError
from runtime.files import is_mac_metadata, require_regular, without_mac_metadata

_PART = re.compile(r"(?P<name>.+)\.tar(\.split\.(?P<number>\d+))?")


class JoinedFile(io.RawIOBase):
    """Several files, one behind the other, as one that can be read anywhere; none stays open."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = list(paths)
        self._ends = list(accumulate(path.stat().st_size for path in self._paths))
        self._position = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ends[-1]}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        """What the part that the position is in still holds, at most."""
        number, within = locate(self._ends, self._position)
        if number == len(self._paths):
            return 0
        with self._paths[number].open("rb") as part:
            part.seek(within)
            count = part.readinto(buffer)
        self._position += count
        return count


class _Place(NamedTuple):
    tops: tuple[str, ...]
    """The folders before `<sample>/<file>`, one unless two files share that."""
    offset: int
    size: int


@dataclass
class Archive:
    """A tar and what is in it, looked through once.

    Attributes:
      name: of its file, without .tar and what follows.
      parts: its files, in order.
    """

    name: str
    parts: list[Path]

    def __post_init__(self) -> None:
        self._lock = Lock()

    @cached_property
    def top(self) -> str:
        """The folder that its first file is in, without the sample's; "" if there is none."""
        for member in self._members():
            return "/".join(Path(member.name).parts[:-2])
        raise UserError(f"{self.parts[0]}: holds no file; download it again")

    @cached_property
    def _places(self) -> dict[str, _Place]:
        """`<sample>/<file>` -> where it is."""
        places: dict[str, _Place] = {}
        for member in self._members():
            parts = Path(member.name).parts
            name, top = "/".join(parts[-2:]), intern("/".join(parts[:-2]))
            earlier = places[name].tops if name in places else ()
            # Of one whole path the last counts, as for `tar`.
            tops = earlier if top in earlier else (*earlier, top)
            places[name] = _Place(tops, member.offset_data, member.size)
        return places

    def names(self) -> list[str]:
        with self._lock:
            return list(self._places)

    def read(self, name: str) -> bytes | None:
        """A file's bytes, None where there is no such file.

        Raises:
          UserError: two are known by this name.
        """
        with self._lock:
            place = self._places.get(name)
        if place is None:
            return None
        if len(place.tops) > 1:
            paths = " and ".join(str(Path(top, name)) for top in place.tops)
            raise UserError(f"{self.parts[0]}: holds {paths}, and a pair names no more than {name}; keep one")
        with io.BufferedReader(JoinedFile(self.parts)) as stream:
            stream.seek(place.offset)
            return stream.read(place.size)

    def locate(self, name: str) -> str:
        """Names a file of it in messages."""
        return f"{self.parts[0]}: {name}"

    def _members(self) -> Iterable[tarfile.TarInfo]:
        try:
            stream = io.BufferedReader(JoinedFile(self.parts))
            with stream, tarfile.open(fileobj=stream, mode="r:") as archive:
                for member in archive:
                    if member.isreg() and not is_mac_metadata(Path(member.name)):
                        yield member
                    archive.members.clear()  # tarfile keeps them all
                stream.seek(archive.offset)
                end = stream.read(tarfile.BLOCKSIZE)
                if len(end) < tarfile.BLOCKSIZE or end.strip(b"\0"):
                    raise tarfile.ReadError("it ends early")
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise UserError(
                f"{self.parts[-1]}: this archive of {len(self.parts)} part(s) cannot be read ({error}); "
                "download it again"
            ) from None


@dataclass(frozen=True)
class UnpackedFolder:
    """Where somebody has unpacked an archive."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def top(self) -> str:
        return self.path.name

    def names(self) -> list[str]:
        files = without_mac_metadata(path for path in self.path.rglob("*") if path.is_file())
        return [path.relative_to(self.path).as_posix() for path in files]

    def read(self, name: str) -> bytes | None:
        path = self.path / name
        if not path.is_file():
            return None
        require_regular(path)
        return path.read_bytes()

    def locate(self, name: str) -> str:
        return str(self.path / name)


Store = Archive | UnpackedFolder


def find_stores(folders: Iterable[Path]) -> list[Store]:
    """The archives and the unpacked ones that stand in some folders.

    Raises:
      UserError: a part of an archive is missing; names it.
    """
    stores: list[Store] = []
    for folder in folders:
        parts: dict[tuple[str, bool], list[tuple[int, Path]]] = {}  # whole ones apart from those that are cut
        for path in without_mac_metadata(folder.iterdir() if folder.is_dir() else []):
            if path.is_dir():
                stores.append(UnpackedFolder(path))
            elif match := _PART.fullmatch(path.name):
                require_regular(path, "an archive")
                number = match["number"]
                parts.setdefault((match["name"], number is None), []).append((int(number or 0), path))
        for (name, _), numbered in parts.items():
            numbered.sort()
            numbers = [number for number, _ in numbered]
            if twice := [path for n, path in numbered if numbers.count(n) > 1]:
                raise UserError(f"{twice[0]} and {twice[1]} are the same part of {name}.tar; keep one")
            absent = set(range(numbers[-1] + 1)) - set(numbers)
            if absent:
                raise UserError(
                    f"{folder}: {name}.tar.split.{min(absent):03d} is missing, but later parts are there; "
                    "download it"
                )
            stores.append(Archive(name, [path for _, path in numbered]))
    return stores
