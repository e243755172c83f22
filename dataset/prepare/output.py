"""What the programs that prepare published data sets share: space, output folders, threads, bad items, lists.

`dataset.prepare.jobs` builds on it the work that can be stopped anywhere and started again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from runtime.errors import UserError
from runtime.files import without_mac_metadata, write_atomic
from runtime.logging import get_logger

try:
    import fcntl
except ModuleNotFoundError:  # Windows: no second run is kept out there
    fcntl = None

Item = TypeVar("Item")
Value = TypeVar("Value")
BLOCK = 4096  # bytes a small file takes on common file systems
SHOWN = 10  # bad items shown on the console; all of them are in a file
_LEFTOVER = re.compile(r"\..+\.\d+\.tmp")  # what a killed `write_atomic` leaves
log = get_logger("prepare")


def check_disk(folder: Path, num_bytes: int) -> None:
    """Says how much will be written, and refuses when there is less space.

    Args:
      folder: on the disk to write to; need not exist yet.
      num_bytes: about what will be written.
    """
    present = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(present).free
    log.info("about %s to write, %s free in %s", _size(num_bytes), _size(free), folder)
    if num_bytes > free:
        raise UserError(
            f"{folder}: about {_size(num_bytes)} are needed and {_size(free)} are free; "
            "free some space or choose another output folder"
        )


def disk_bytes(length: int) -> int:
    """What a file of `length` bytes takes on disk."""
    return -(-length // BLOCK) * BLOCK


@contextmanager
def claimed(folder: Path, name: str, settings: dict[str, Any], writes: Sequence[str] = ()) -> Iterator[Path]:
    """Holds `folder` for one run that makes the set `name` there.

    Args:
      folder: the output folder; it may hold other things.
      name: of the set.
      settings: what decides the content of the files.
      writes: files and folders that the run writes below `folder`.
    Returns:
      `<name>_preparation` below `folder`, which keeps the settings and the records of what is done.
    Raises:
      UserError: the folder holds a set made otherwise, files that are not of this set, or another run.
    """
    records = folder / f"{name}_preparation"
    file = records / "settings.json"
    # Without any record the settings bind nobody: a command that failed at once can be corrected.
    is_begun = any(path != file for path in without_mac_metadata(records.glob("*.json")))
    if is_begun or (file.exists() and any(_is_filled(folder / entry) for entry in writes)):
        _require_same(file, settings)
    else:
        foreign = [entry for entry in writes if _is_filled(folder / entry)]
        if foreign:
            raise UserError(
                f"{folder} already holds {', '.join(foreign)}, not made by this program; "
                "move that away or choose another output folder"
            )
    with _locked(records):
        for entry in (records, *(folder / entry for entry in writes)):
            remove_leftovers(entry)
        text = json.dumps(settings, indent=1)
        write_lines(file, lambda: text.split("\n"))
        yield records


def run_parallel(
    function: Callable[[Item], Value], items: Iterable[Item], num_workers: int | None, stop: Event
) -> Iterator[Value]:
    """Calls `function` on every item in threads; results come as they are ready.

    Threads, not processes: decoding, parquet and writing release Python's lock, and nothing outlives a kill.

    Args:
      num_workers: threads; None = one a core.
      stop: set after an error, Ctrl-C, or when the caller closes the generator; nothing new is started then.
    """
    num_workers = num_workers or os.cpu_count() or 1
    with ThreadPoolExecutor(num_workers) as pool:
        pending = set()
        try:
            for item in items:
                pending.add(pool.submit(function, item))
                if len(pending) >= 2 * num_workers:
                    ready, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from [future.result() for future in ready]
            while pending:
                ready, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from [future.result() for future in ready]
        except BaseException:
            stop.set()
            for future in pending:
                future.cancel()
            raise


def require_budget(
    problems: Sequence[str], num_bad: int, num_good: int, budget: float, listing: Path
) -> None:
    """Names the bad items, the first ones on the console and all of them in a file, and counts them.

    Args:
      problems: a message for each bad item, or for each group of them.
      num_bad: items that cannot be used.
      num_good: items that can.
      budget: share of bad items, 0 to 1, that is accepted (--bad-sample-budget).
      listing: the file; it goes when there is nothing to name.
    Raises:
      UserError: more bad items than that, or no good one.
    """
    for problem in problems[:SHOWN]:
        log.warning("%s", problem)
    if len(problems) > SHOWN:
        log.warning("and %d more", len(problems) - SHOWN)
    if problems:
        write_lines(listing, lambda: (" ".join(problem.split("\n")) for problem in problems))
    else:
        listing.unlink(missing_ok=True)
    total = num_good + num_bad
    if num_bad > budget * total:
        share = math.ceil(1e6 * num_bad / total) / 1e6
        raise UserError(
            f"{num_bad} of {total} items cannot be used, all named in {listing}; repair them and run again, "
            f"or go without them: --bad-sample-budget {share:g}"
        )
    if num_good == 0:
        raise UserError(f"{listing.parent}: nothing to prepare was found in the input")
    if num_bad:
        log.warning("%d of %d items cannot be used and are left out, see %s", num_bad, total, listing)


def write_lines(path: Path, make_lines: Callable[[], Iterable[str]]) -> None:
    """Writes a text file, whole or not at all; one that holds these lines already is left alone."""
    if path.exists() and _holds(path, make_lines()):
        return

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            stream.writelines(f"{line}\n" for line in make_lines())

    write_atomic(path, write)


def write_jsonl(path: Path, make_lines: Callable[[], Iterable[dict[str, Any]]]) -> None:
    """`write_lines` of one JSON object a line."""
    write_lines(path, lambda: (json.dumps(line, ensure_ascii=False) for line in make_lines()))


def fingerprint(paths: Iterable[Path], text: str = "") -> str:
    """A hash of the files' names, sizes and times (a missing file counts too), and of `text`."""
    digest = hashlib.sha256(text.encode(errors="backslashreplace"))
    for path in paths:
        try:
            status = path.stat()
            stamp = f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError):  # ValueError: a zero byte in the path
            stamp = "missing"
        digest.update(f"{path.name} {stamp}\0".encode(errors="backslashreplace"))
    return digest.hexdigest()


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def _require_same(file: Path, settings: dict[str, Any]) -> None:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{file} is damaged; delete {file.parent} and what was prepared, and run again")
    names = dict.fromkeys([*settings, *found])
    differing = [f"{n} {found.get(n)!r} instead of {settings.get(n)!r}" for n in names
                 if found.get(n) != settings.get(n)]  # fmt: skip
    if differing:
        raise UserError(
            f"{file.parent.parent} holds a set made with {', '.join(differing)}; "
            f"choose another output folder, or delete {file.parent.name} and what was prepared"
        )


def _is_filled(path: Path) -> bool:
    return bool(without_mac_metadata(path.iterdir())) if path.is_dir() else path.exists()


@contextmanager
def _locked(records: Path) -> Iterator[None]:
    """Keeps a second run out; the lock goes with the process, however it ends."""
    try:
        records.mkdir(parents=True, exist_ok=True)
        file = (records / "lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write into {records}: {error.strerror or error}") from None
    with file:
        try:
            if fcntl is None:
                raise OSError("no locks")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is writing into {records.parent} now; wait for it to end") from None
        except OSError:
            log.info("%s: this file system has no locks; see to it that no second run writes there", records)
        yield


def remove_leftovers(path: Path) -> None:
    """Deletes the temporary files of a killed run."""
    candidates = path.rglob(".*.tmp") if path.is_dir() else path.parent.glob(f".{path.name}.*.tmp")
    for candidate in candidates:
        if _LEFTOVER.fullmatch(candidate.name):
            candidate.unlink(missing_ok=True)


def _holds(path: Path, lines: Iterable[str]) -> bool:
    with path.open(encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
        return all(stream.readline() == f"{line}\n" for line in lines) and not stream.readline()
