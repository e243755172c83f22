"""What a case is, and what all cases share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.tiny_files import (
    tiny_train_flags,
    write_shapes,
    write_t5,
    write_tokenizer,
    write_transformers,
)


@dataclass(frozen=True)
class Assets:
    """Tiny data and models that every case may read, and none may change."""

    folder: Path

    def make(self) -> None:
        """Writes them, unless they are there."""
        done = self.folder / "done"
        if done.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        shapes = write_shapes(self.shapes)
        write_tokenizer(self.vq)
        write_t5(self.t5, shapes)
        write_transformers(self.folder)
        done.touch()

    @property
    def shapes(self) -> Path:
        return self.folder / "shapes"

    @property
    def vq(self) -> Path:
        return self.folder / "vq.pt"

    @property
    def t5(self) -> Path:
        return self.folder / "t5"

    @property
    def editor(self) -> Path:
        return self.folder / "edit.pt"

    def train_flags(self) -> list[str]:
        """Flags of a tiny training, but for its data and its results folder."""
        return tiny_train_flags(self.vq, self.t5)


@dataclass(frozen=True)
class Case:
    """One case: `run(assets, folder)` raises if the promise is broken; `folder` is its own and empty."""

    name: str
    run: Callable[[Assets, Path], None]


def same(a: Any, b: Any) -> bool:
    """Bit for bit, through nested dicts and lists."""
    if isinstance(a, torch.Tensor):
        if not isinstance(b, torch.Tensor) or (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        return torch.equal(*(x.contiguous().view(-1).view(torch.uint8) for x in (a, b)))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return a == b
