"""Where the shards of a packed set lie: in a folder here, or (`dataset.packed.remote`) in an object store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from dataset.packed.format import Manifest, read_manifest, shard_path
from runtime.errors import UserError


class ShardStore(ABC):
    """Gives the files of shards, each of which is whole.

    Attributes:
      manifest: of the set.
    """

    manifest: Manifest

    @abstractmethod
    def name(self, number: int) -> str:
        """The address of a shard as its owner knows it, for messages."""

    @abstractmethod
    def has(self, number: int) -> bool:
        """Whether a file given before is there still."""

    @abstractmethod
    def use(self, number: int) -> bool:
        """The same, and it is noted that the file is used."""

    @abstractmethod
    def held(self, number: int) -> AbstractContextManager[Path]:
        """The file of a shard, which nobody deletes inside; what is mapped then may be read for ever."""


class LocalFolder(ShardStore):
    """A packed set on a disk."""

    def __init__(self, folder: str | Path) -> None:
        """
        Raises:
          UserError: no packed data, or a shard that is missing or not as long as it should be.
        """
        self.manifest = read_manifest(folder)
        for number, info in enumerate(self.manifest.shards):
            path = self._path(number)
            require_length(path, info.bytes, self.name(number))

    def _path(self, number: int) -> Path:
        return shard_path(Path(self.manifest.folder), number)

    def name(self, number: int) -> str:
        return str(self._path(number))

    def has(self, number: int) -> bool:
        return True

    def use(self, number: int) -> bool:
        return True

    def held(self, number: int) -> AbstractContextManager[Path]:
        return nullcontext(self._path(number))


def require_length(path: Path, num_bytes: int, name: str) -> None:
    """
    Raises:
      UserError: a shard's file is missing or has another length than the manifest says.
    """
    try:
        length = path.stat().st_size
    except OSError as error:
        raise damaged(name, error.strerror or str(error)) from None
    if length != num_bytes:
        raise damaged(name, f"{length} bytes, the manifest says {num_bytes}")


def damaged(name: str, reason: str) -> UserError:
    """What is said of a shard that cannot be read."""
    return UserError(
        f"{name} is damaged: {reason}; copy it again, or run the packing command again, "
        "which keeps what is whole"
    )
