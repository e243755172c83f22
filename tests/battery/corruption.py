"""Test 4: every flipped bit, cut end and missing manifest is noticed, named and passed over."""

from __future__ import annotations

import logging
import random
from functools import partial
from pathlib import Path

from runtime.checkpoint import load_checkpoint, manifest_path, save_checkpoint
from runtime.distributed import ONE_RANK
from runtime.errors import UserError
from runtime.training.resume import resume_point
from tests.battery.cases import Assets, Case
from tests.battery.killed_saves import content_of


def cases() -> list[Case]:
    flips = [Case(f"bit flip {number}", partial(_run, _flip, number)) for number in range(100)]
    cuts = [Case(f"truncation {number}", partial(_run, _cut, number)) for number in range(20)]
    return [*flips, *cuts, Case("missing manifest", partial(_run, _forget, 0))]


def _run(damage, number: int, assets: Assets, folder: Path) -> None:
    old, new = (folder / "checkpoints" / f"{step:07d}.pt" for step in (1, 2))
    for step, path in enumerate((old, new), start=1):
        save_checkpoint(path, content_of(step))
    damage(new, random.Random(number))
    if manifest_path(new).exists():
        try:
            load_checkpoint(new)
        except UserError as error:
            assert str(new) in str(error)
        else:
            raise AssertionError("the damage went unnoticed")
    for wanted, newest in ((str(new), False), (None, True)):
        with _Warnings() as warnings:
            assert resume_point(wanted, folder, ONE_RANK, newest=newest) == str(old)
        assert any(str(new) in line for line in warnings.lines), f"not named: {warnings.lines}"


def _flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _cut(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def _forget(path: Path, rng: random.Random) -> None:
    manifest_path(path).unlink()


class _Warnings(logging.Handler):
    """The project's log lines while it is entered."""

    def __enter__(self) -> _Warnings:
        self.lines: list[str] = []
        logging.getLogger("nep").addHandler(self)
        return self

    def __exit__(self, *_) -> None:
        logging.getLogger("nep").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
