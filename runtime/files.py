"""Files that are whole or absent, and errors of the disk that name the file."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import UserError


def is_mac_metadata(path: Path) -> bool:
    """Whether a path is something that Macs add: `._*` beside real files, `__MACOSX`, `.DS_Store`."""
    return path.name.startswith("._") or path.name == ".DS_Store" or "__MACOSX" in path.parts


def without_mac_metadata(paths: Iterable[Path]) -> list[Path]:
    """What a listing of a folder holds, in order, see `is_mac_metadata`."""
    return sorted(path for path in paths if not is_mac_metadata(path))


_LONGEST_NAME = 255  # bytes of a file's name, on common file systems
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def require_regular(path: str | Path, what: str = "what is read here") -> None:
    """Refuses what can be named as a file but not read as one: a pipe or a device could be read for ever.

    `<(command)` of a shell is a pipe too. What is missing is left to the reader, who says so.

    Args:
      what: the file is to hold, for the message.
    Raises:
      UserError: a pipe, a socket, a device or a folder; names it.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return
    if kind == stat.S_IFREG:
        return
    fix = "name a file in it" if kind == stat.S_IFDIR else "save it to a file first"
    raise UserError(
        f"{path}: is no file but {_KINDS.get(kind, 'something else')}; {what} must be a regular file: {fix}"
    )


@contextmanager
def utf8_name(path: str | Path) -> Iterator[str]:
    """A file's name for libraries that take none but UTF-8: its own, or that of a descriptor, open inside."""
    name = str(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        with open(path, "rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield name


def require_place(path: str | Path) -> None:
    """Raises `UserError` where no file of that name can be made: told before the work, not after it.

    Folders on the way that are missing are made when it is written.
    """
    if os.path.isdir(path):
        raise UserError(f"cannot write {path}: it is a folder; name a file in it")
    folder = Path(os.path.abspath(path)).parent
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    if not os.path.isdir(folder):
        raise UserError(f"cannot write {path}: {folder} is no folder; choose another one")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {path}: nothing can be written into {folder}; choose another folder")


def write_atomic(path: str | Path, write: Callable[[Path], None]) -> None:
    """Calls `write(temporary)` beside `path`, flushes, and renames: `path` is whole or absent."""
    path = Path(path)
    writer = f"{os.getpid()}.{threading.get_ident()}"  # two threads may write one file, too
    name = path.name
    while len(os.fsencode(f".{name}.{writer}.tmp")) > _LONGEST_NAME >= len(os.fsencode(path.name)):
        name = name[:-1]
    temporary = path.with_name(f".{name}.{writer}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            flush(temporary)
            os.replace(temporary, path)
            flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Makes a file, or the names in a folder, outlive a power cut; Windows opens no folders."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turns what goes wrong with the disk inside into a `UserError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from error


def path_sha256(path: str | Path) -> str:
    """Of a file its `file_sha256`; of a folder one of the files right in it, with their names."""
    path = Path(path)
    if not path.is_dir():
        return file_sha256(path)
    files = sorted(file for file in path.iterdir() if file.is_file())
    return hashlib.sha256("".join(f"{file_sha256(f)} {f.name}\n" for f in files).encode()).hexdigest()


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    require_regular(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
