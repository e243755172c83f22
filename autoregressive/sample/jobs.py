"""The one loop of all sampling programs: this rank's jobs in batches, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from runtime.distributed import Distributed
from runtime.logging import progress

Job = TypeVar("Job")


def run_jobs(
    jobs: Sequence[Job],
    batch_size: int,
    ranks: Distributed,
    make: Callable[[Sequence[Job]], None],
    *,
    desc: str,
    unit: str,
    is_done: Callable[[Job], bool] | None = None,
) -> None:
    """Makes this rank's share of jobs that do not need each other's results.

    Args:
      jobs: those of all ranks; rank r takes every world_size-th one, from number r.
      batch_size, make, desc, unit, is_done: see `run_rounds`.
    """
    mine = jobs[ranks.rank :: ranks.world_size]
    run_rounds([mine], batch_size, ranks, make, desc=desc, unit=unit, is_done=is_done)


def run_rounds(
    rounds: Sequence[Sequence[Job]],
    batch_size: int,
    ranks: Distributed,
    make: Callable[[Sequence[Job]], None],
    *,
    desc: str,
    unit: str,
    is_done: Callable[[Job], bool] | None = None,
) -> None:
    """Makes rounds of jobs, each round after the one before, under one bar with rate and time left.

    Args:
      rounds: this rank's jobs; those of one round may need results of the rounds before.
      batch_size: most jobs at a time.
      ranks: the first one shows the bar.
      make: makes one batch and writes its results, so that a later failure does not lose them.
      desc: the bar's title.
      unit: what the bar counts.
      is_done: tells whether a job was made by an earlier run; it is left out, and counted as done. It is
        asked once, before the first batch.
    """
    missing = [[job for job in jobs if is_done is None or not is_done(job)] for jobs in rounds]
    total = sum(map(len, rounds))
    num_done = total - sum(map(len, missing))
    silent = not ranks.is_main or total < 2
    with progress(total=total, initial=num_done, desc=desc, unit=unit, disable=silent) as bar:
        for jobs in missing:
            for start in range(0, len(jobs), batch_size):
                batch = jobs[start : start + batch_size]
                make(batch)
                bar.update(len(batch))
