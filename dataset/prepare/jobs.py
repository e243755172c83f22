"""Preparation as jobs that can be stopped anywhere and started again.

A job is a row group of a parquet file, a shard, a chunk of a list. It writes its files, each of them beside
and renamed, and last its record: the job's lines of the final list, its files, its bad items by name. What
has a record is not done again, unless the job's input has changed or one of its files is gone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Any

from dataset.prepare.output import check_disk, log, require_budget, run_parallel
from runtime.errors import UserError
from runtime.logging import progress
from runtime.texts import write_json

RECORD_BYTES = 1000  # about what one item takes in its record and in the list


@dataclass(frozen=True)
class Job:
    """One piece of the work.

    Attributes:
      name: of its record; no other job of the set has it.
      size: units of the progress bar it holds.
      num_bytes: about what it writes.
      fingerprint: changes when its input does.
      payload: whatever `work` needs.
      retry_bad: do it again if it had bad items, for they may be mended where the fingerprint does not look.
    """

    name: str
    size: int
    num_bytes: int
    fingerprint: str
    payload: Any
    retry_bad: bool = False


@dataclass
class Result:
    """What a job made: its lines of the list, the files it wrote (below the output folder), its bad items."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class UnreadableJob(UserError):
    """The whole input of a job cannot be read: all its items are bad. The next run tries it again."""

    def __init__(self, message: str, num_items: int = 1) -> None:
        super().__init__(message)
        self.num_items = num_items


class Stopped(Exception):
    """Ends the jobs of the other threads after an error or Ctrl-C."""


Tick = Callable[[int], None]
Work = Callable[[Job, Tick], Result]


@dataclass(frozen=True)
class Outcome:
    """The records of the jobs, in their order, and what could not be read at all."""

    records: list[Path]
    unreadable: list[UnreadableJob]

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines of all jobs; one record in memory at a time."""
        return (line for record in self.records for line in _read_record(record)["lines"])

    def settle(self, listing: Path, budget: float, more_problems: Iterable[str] = ()) -> int:
        """Names the bad items and counts the good ones; see `require_budget`."""
        num_good = 0
        problems = [*more_problems, *map(str, self.unreadable)]
        num_bad = len(problems) + sum(error.num_items - 1 for error in self.unreadable)
        for content in map(_read_record, self.records):
            num_good += len(content["lines"])
            num_bad += len(content["problems"])
            problems += content["problems"]
        require_budget(problems, num_bad, num_good, budget, listing)
        return num_good


def run_jobs(
    records: Path,
    make_jobs: Callable[[], Iterable[Job]],
    work: Work,
    *,
    num_workers: int | None,
    desc: str,
    unit: str,
) -> Outcome:
    """Does the jobs that have no valid record.

    Args:
      records: folder of the records, from `claimed`; the output folder is the one above.
      make_jobs: gives all jobs, the same at each call, so that a long list is never in memory as a whole.
      work: does one job, and calls its second argument with the number of units just done. Bad items go into
        `Result.problems`. An `UnreadableJob` ends the job; a `UserError`, such as a full disk, the run.
      num_workers: threads; None = one a core.
      desc: of the progress bar.
      unit: of the progress bar.
    Raises:
      UserError: too little disk space, or what `work` raised.
    """
    names: dict[str, bool] = {}  # whether it is done
    total = done = num_bytes = 0
    for job in progress(make_jobs(), desc="looking for finished parts", unit="part", leave=False):
        if job.name in names:
            raise UserError(f"two input files are named {job.name.rpartition('-')[0]!r}; rename one of them")
        names[job.name] = _is_done(records, job)
        total += job.size
        done += job.size if names[job.name] else 0
        num_bytes += 0 if names[job.name] else job.num_bytes
    if all(names.values()):
        log.info("%s: everything is done already", records.parent)
        return Outcome(_paths(records, names), [])
    check_disk(records.parent, num_bytes)
    stop, lock, unreadable = Event(), Lock(), []
    with progress(total=total, initial=done, desc=desc, unit=unit, unit_scale=unit == "B") as bar:

        def tick(amount: int) -> None:
            if stop.is_set():
                raise Stopped
            with lock:
                bar.update(amount)

        def do(job: Job) -> tuple[str, UnreadableJob | None]:
            return job.name, _do_job(records, job, work, tick)

        todo = (job for job in make_jobs() if not names[job.name])
        with closing(run_parallel(do, todo, num_workers, stop)) as results:
            for name, error in results:
                if error is not None:
                    unreadable.append(error)
                    del names[name]
    return Outcome(_paths(records, names), unreadable)


def _paths(records: Path, names: Iterable[str]) -> list[Path]:
    return [records / f"{name}.json" for name in names]


def _do_job(records: Path, job: Job, work: Work, tick: Tick) -> UnreadableJob | None:
    path = records / f"{job.name}.json"
    try:
        result = work(job, tick)
    except UnreadableJob as error:
        path.unlink(missing_ok=True)
        return error
    write_json(path, {"fingerprint": job.fingerprint, **asdict(result)})
    return None


def _is_done(records: Path, job: Job) -> bool:
    try:
        content = json.loads((records / f"{job.name}.json").read_text())
        same = content["fingerprint"] == job.fingerprint and not (job.retry_bad and content["problems"])
        return same and all((records.parent / file).exists() for file in content["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _read_record(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and run again") from None
