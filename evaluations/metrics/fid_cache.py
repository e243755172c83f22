"""Inception statistics kept on disk: those of a whole folder, and the progress of an interrupted run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtime.errors import UserError
from runtime.files import require_regular, write_atomic


class StatisticsCache:
    """The arrays of one set of files under certain settings; another listing or setting is another entry."""

    def __init__(self, folder: str | Path, paths: Sequence[Path], settings: dict[str, Any]) -> None:
        """
        Args:
          folder: where entries are kept.
          paths: the files; their sizes and times of change count, their content is not read.
          settings: everything else that the statistics depend on.
        """
        files = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
        text = json.dumps({"files": files, "settings": settings}, sort_keys=True)
        name = f"inception-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.path = Path(folder) / f"{name}.npz"
        self._blocks = Path(folder) / name

    def load(self) -> dict[str, np.ndarray]:
        return _read(self.path, "mean", "covariance")

    def save(self, **arrays: np.ndarray) -> None:
        """Stores the result and removes the blocks that led to it."""
        _write(self.path, lambda file: np.savez(file, **arrays))
        shutil.rmtree(self._blocks, ignore_errors=True)

    def load_block(self, index: int) -> Tensor | None:
        path = self._block(index)
        return torch.from_numpy(_read(path, "features")["features"]) if path.is_file() else None

    def save_block(self, index: int, features: Tensor) -> None:
        _write(self._block(index), lambda file: np.savez(file, features=features.numpy()))

    def _block(self, index: int) -> Path:
        return self._blocks / f"{index:05d}.npz"


def _read(path: Path, *names: str) -> dict[str, np.ndarray]:
    require_regular(path, "a file of statistics")
    try:
        with np.load(path) as content:
            arrays = {name: content[name] for name in names}
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("numbers that are not finite")
    except Exception as error:  # NumPy's and zip's parsers raise many unrelated types
        raise UserError(f"{path}: damaged statistics ({error!r}); delete the file") from error
    return arrays


def _write(path: Path, save: Callable[[Any], None]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            save(file)

    write_atomic(path, write)
