"""Packed sets in object stores: a shard is copied here when a row of it is first read.

A cache folder on this machine's own disk, which its processes share, holds

    <set>/manifest.json             <set> follows from the set's URL and its manifest
    <set>/000000.arrow              a shard whose SHA-256 is that of the manifest
    <set>/000000.arrow.<bytes>.tmp  one on its way, so long in the end
    <set>/000000.arrow.lock         held by the process that copies it
    lock                            held while files are opened, named or deleted

fsspec fetches. Its own caches ("simplecache", "filecache") have no bound, and a second process may read in
them what the first has half written.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import fsspec
from filelock import FileLock, Timeout
from fsspec import AbstractFileSystem

from dataset.packed.format import MANIFEST, SHARDS, read_manifest, shard_path
from dataset.packed.stores import ShardStore, damaged
from runtime.errors import UserError
from runtime.files import file_sha256, flush, write_atomic, writing
from runtime.logging import get_logger

log = get_logger(__name__)
GB = 1e9
_UNLISTED = ("http://", "https://")  # what these hold cannot be asked for
_WAIT = 0.05  # seconds
DEFAULT_CACHE = "~/.cache/nep/packed"


def is_url(folder: str | Path) -> bool:
    """Whether a set lies in an object store."""
    return "://" in str(folder)


@dataclass(frozen=True)
class DataCache:
    """Files copied from object stores: the least recently used go where `max_bytes` would be exceeded."""

    folder: Path
    max_bytes: int

    @classmethod
    def of_flags(cls, folder: str | None, gigabytes: float) -> DataCache:
        """What `--data-cache-dir` and `--data-cache-gb` ask for."""
        return cls(Path(folder or DEFAULT_CACHE).expanduser(), int(gigabytes * GB))

    def locked(self) -> FileLock:
        """Held where files are opened, named or deleted."""
        return FileLock(self.folder / "lock")

    def reserve(self, temporary: Path, size: int) -> bool:
        """Deletes what has to go and begins `temporary`; False while files of other processes on their way
        leave too little room."""
        with self.locked():
            used, whole = 0, []
            for path in self.folder.glob("*/*.arrow*"):
                if path.suffix == ".tmp":
                    used += _bytes_coming(path)
                elif path.suffix == ".arrow":
                    stat = path.stat()
                    whole.append((stat.st_mtime_ns, stat.st_size, path))
            if used + size > self.max_bytes:
                return False
            used += sum(length for _, length, _ in whole)
            for _, length, path in sorted(whole):
                if used + size > self.max_bytes:
                    path.unlink()
                    used -= length
            temporary.touch()
            return True


def _bytes_coming(temporary: Path) -> int:
    """What a file on its way will take; none, and it goes, if the process that copied it was killed."""
    name, size, _ = temporary.name.rsplit(".", 2)
    try:
        with FileLock(temporary.with_name(f"{name}.lock"), timeout=0):
            temporary.unlink(missing_ok=True)
            return 0
    except Timeout:
        return int(size)


class RemoteFolder(ShardStore):
    """A packed set at a URL that fsspec knows, such as `s3://bucket/folder`."""

    def __init__(self, url: str, cache: DataCache) -> None:
        """
        Raises:
          UserError: no packed data there, no way to it, a shard that is missing or not as long as it should
            be, or a cache too small for the largest.
        """
        self._url, self._cache = url.rstrip("/"), cache
        with _reaching(f"{self._url}/{MANIFEST}"):
            system, path = fsspec.core.url_to_fs(self._url)
            content = system.cat_file(f"{path}/{MANIFEST}")
        self._folder = cache.folder / sha256(f"{self._url}\0".encode() + content).hexdigest()[:16]
        write_atomic(self._folder / MANIFEST, lambda temporary: temporary.write_bytes(content))
        try:
            self.manifest = replace(read_manifest(self._folder), folder=self._url)
        except UserError as error:
            raise UserError(f"{self._url}: {error}") from None
        self._require_room()
        if not self._url.startswith(_UNLISTED):
            self._require_shards(system, path)

    def _require_room(self) -> None:
        sizes = [info.bytes for info in self.manifest.shards]
        if max(sizes) > self._cache.max_bytes:
            raise UserError(
                f"--data-cache-gb {self._cache.max_bytes / GB:g} holds no shard of {self._url}: the largest "
                f"has {max(sizes) / GB:.3g} GB"
            )
        if sum(sizes) > self._cache.max_bytes:
            log.warning(
                "%s has %.3g GB, and --data-cache-gb is %g: rows are drawn from all shards, so that most "
                "will be copied again and again; give it more, or copy the set to a disk",
                *(self._url, sum(sizes) / GB, self._cache.max_bytes / GB),
            )

    def _require_shards(self, system: AbstractFileSystem, path: str) -> None:
        with _reaching(f"{self._url}/{SHARDS}"):
            found = {
                Path(file["name"]).name: file["size"] for file in system.ls(f"{path}/{SHARDS}", detail=True)
            }
        for number, info in enumerate(self.manifest.shards):
            length = found.get(self._path(number).name)
            if length is None:
                raise damaged(self.name(number), "it is not there")
            if length != info.bytes:
                raise damaged(self.name(number), f"{length} bytes, the manifest says {info.bytes}")

    def _path(self, number: int) -> Path:
        return self._folder / shard_path(Path(), number).name

    def name(self, number: int) -> str:
        return f"{self._url}/{shard_path(Path(), number).as_posix()}"

    def has(self, number: int) -> bool:
        return self._path(number).exists()

    def use(self, number: int) -> bool:
        now = time.time_ns()  # by itself the kernel notes milliseconds
        try:
            os.utime(self._path(number), ns=(now, now))
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def held(self, number: int) -> Iterator[Path]:
        path = self._path(number)
        while True:
            with self._cache.locked():
                if self.use(number):
                    yield path
                    return
            with FileLock(f"{path}.lock"):
                if not path.exists():  # another process may have been faster
                    self._copy(number, path)

    def _copy(self, number: int, path: Path) -> None:
        """Fetches a shard, whose lock this process holds; `path` is whole or absent."""
        info = self.manifest.shards[number]
        for left in self._folder.glob(f"{path.name}.*.tmp"):  # of a process that was killed
            left.unlink()
        temporary = path.with_name(f"{path.name}.{info.bytes}.tmp")
        while not self._cache.reserve(temporary, info.bytes):
            time.sleep(_WAIT)
        try:
            with writing(path), _reaching(self.name(number)):
                # Anew each time: connections do not outlive a fork.
                system, source = fsspec.core.url_to_fs(self.name(number))
                system.get_file(source, str(temporary))
            if (length := temporary.stat().st_size) != info.bytes:
                raise damaged(self.name(number), f"{length} bytes, the manifest says {info.bytes}")
            if info.sha256 and (found := file_sha256(temporary)) != info.sha256:
                raise damaged(
                    self.name(number),
                    f"its SHA-256 is {found[:16]}…, the manifest says {info.sha256[:16]}…",
                )
            with writing(path):
                flush(temporary)
                with self._cache.locked():  # so that `reserve` counts it once, by one name or the other
                    os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Turns what fsspec and its libraries raise, of many types, into a `UserError` that names `url`."""
    try:
        yield
    except ImportError as error:
        fix = "pip install -e '.[object-store]'" if url.startswith("s3") else "install what it names"
        raise UserError(f"{url}: a package is missing ({error}): {fix}") from error
    except FileNotFoundError as error:
        raise UserError(
            f"{url}: not there ({error}); name the bucket and the folder of a packed set, and if it lies "
            "with another provider, its address: AWS_ENDPOINT_URL"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise  # of the disk here
        if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
            raise UserError(
                f"{url}: no access ({error}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "AWS_PROFILE, to credentials that may list and read it"
            ) from error
        raise UserError(
            f"{url}: cannot be read ({type(error).__name__}: {error}); look at the address and the network"
        ) from error
