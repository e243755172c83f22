"""What a case is, and what all cases share."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runtime.errors import UserError
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


def refused(work: Callable[[], Any], *named: object) -> None:
    """Requires a `UserError` that holds each of `named`."""
    try:
        result = work()
    except UserError as error:
        for words in map(str, named):
            assert words in str(error), f"{words!r} is not named: {error}"
    else:
        raise AssertionError(f"accepted: {result}")


def in_little_memory(work: Callable[[], Any], memory: int) -> str:
    """The error that `work` ends with, or "accepted", in a process that may grow by `memory` bytes only."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + memory
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            work()
            os.write(write, b"accepted")
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode()[:4000])
        finally:
            os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    message = os.read(read, 4096).decode(errors="replace")
    os.close(read)
    assert status == 0, f"status {status}, {message}"
    return message
