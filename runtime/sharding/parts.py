"""The parts of a checkpoint's tensors, as torch's distributed checkpoint (DCP) writes and reads them.

DCP notes in a pickle, `.metadata`, which part stands where. It is read by rules of its own, which know a few
classes without behaviour, and what it says is compared with the files.
"""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from runtime.sharding.names import METADATA, Place


def write_parts(folder: Path, tensors: dict[Place, Tensor], group: ProcessGroup | None) -> Future:
    """Copies this rank's parts of `tensors`, then writes them into `folder` in a thread.

    Args:
      group: of all ranks, for CPUs, used for nothing else meanwhile; None where there is one rank.
    """
    _ignore_what_is_meant()
    writer = _Writer(folder)
    return dcp.async_save(_nested(tensors), storage_writer=writer, process_group=group, no_dist=group is None)


def _ignore_what_is_meant() -> None:
    """Not for a while: DCP's threads warn, too."""
    for message in ("torch.distributed is disabled, unavailable or uninit", "TypedStorage is deprecated"):
        warnings.filterwarnings("ignore", message=message)


class _Writer(dcp.FileSystemWriter):
    """DCP's writer, without the name of the folder, which is another one in the end."""

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()


def wait_for(parts: Future) -> None:
    """Waits until all ranks have written their parts.

    Raises:
      OSError: one could not.
    """
    try:
        parts.result()
    except CheckpointException as failure:
        error, _ = next(iter(failure.failures.values()))
        raise error if isinstance(error, OSError) else OSError(str(error)) from failure


def read_parts(folder: Path, tensors: dict[Place, Tensor]) -> None:
    """Fills `tensors`, each rank its part of those that are sharded; no rank waits for another.

    Raises:
      ValueError: the folder is not what it should be.
    """
    reader = _Reader(folder)
    if tensors:
        _ignore_what_is_meant()
        dcp.load(_nested(tensors), storage_reader=reader, no_dist=True)


def _nested(tensors: dict[Place, Tensor]) -> dict[Any, Any]:
    nested: dict[Any, Any] = {}
    for place, tensor in tensors.items():
        inside = nested
        for key in place[:-1]:
            inside = inside.setdefault(key, {})
        inside[place[-1]] = tensor
    return nested


class _Reader(dcp.FileSystemReader):
    """DCP's reader, which believes nothing that a folder says."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
          ValueError: `.metadata` names files elsewhere, or parts that would unpack to more than they take.
        """
        super().__init__(folder)
        self._checked = self._read_checked(folder)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Where which part stands."""
        return self._checked

    def _read_checked(self, folder: Path) -> Metadata:
        with (folder / METADATA).open("rb") as file:
            metadata = _MetadataUnpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise ValueError(f"its {METADATA} holds a {type(metadata).__name__}")
        parts = list((metadata.storage_data or {}).values())
        for name in {part.relative_path for part in parts}:
            if Path(name).name != name or not (folder / name).is_file():
                raise ValueError(f"its {METADATA} names {name!r}, which is no file in it")
            with (folder / name).open("rb") as file:
                for part in parts:
                    if part.relative_path == name:
                        self._require_stored(file, part)
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata

    def _require_stored(self, file: BinaryIO, part: _StorageInfo) -> None:
        """torch compresses no tensors, and would unpack any that are."""
        if part.transform_descriptors:
            raise ValueError(f"its tensors went through {part.transform_descriptors}")
        with zipfile.ZipFile(_Slice(file, part.offset, part.length)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > part.length:
                raise ValueError("a tensor in it would unpack to more than it takes")


class _Slice(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._file, self._start, self._length, self._at = file, start, length, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        if self._at < 0:
            raise OSError(f"seek to {self._at}")
        return self._at

    def readinto(self, buffer: memoryview) -> int:
        self._file.seek(self._start + self._at)
        data = self._file.read(max(min(len(buffer), self._length - self._at), 0))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _MetadataUnpickler(pickle.Unpickler):
    """Knows the classes that DCP describes tensors with, and nothing that does anything."""

    _CLASSES = {
        "torch.distributed.checkpoint.metadata": {
            "Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "MetadataIndex",
            "StorageMeta", "_MEM_FORMAT_ENCODING",
        },
        "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
        "torch.serialization": {"_get_layout"},
        "torch": {"Size", "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8",
                  "uint8", "bool"},
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if name not in self._CLASSES.get(module, ()):
            raise ValueError(f"its {METADATA} wants {module}.{name}, which describes no tensor")
        return super().find_class(module, name)
