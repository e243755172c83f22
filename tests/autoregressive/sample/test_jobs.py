"""The one loop of the sampling programs: batches, ranks, rounds, what is done already, and failures."""

from __future__ import annotations

import inspect

import pytest
import torch

from autoregressive.sample import drawing, edit_run, file_edits, jobs, scaling_run
from autoregressive.sample.jobs import run_jobs, run_rounds
from autoregressive.scaling.choices import EDIT_REWARDS, METHODS, REWARDS
from autoregressive.scaling.rewards import _BUILDERS
from runtime.distributed import Distributed

NAMES = {"desc": "making", "unit": "thing"}


def rank(number: int = 0, count: int = 1) -> Distributed:
    return Distributed(number, count, number, torch.device("cpu"))


def test_each_job_is_made_once_by_some_rank_in_batches():
    batches = {number: [] for number in range(3)}
    for number, made in batches.items():
        run_jobs(list(range(11)), 2, rank(number, 3), made.append, **NAMES)
    assert batches == {0: [[0, 3], [6, 9]], 1: [[1, 4], [7, 10]], 2: [[2, 5], [8]]}


def test_no_batch_spans_two_rounds_and_a_rank_without_jobs_makes_none():
    made = []
    run_rounds([[1, 2, 3], [], [4, 5]], 2, rank(), made.append, **NAMES)
    assert made == [[1, 2], [3], [4, 5]]
    run_jobs([1], 2, rank(1, 2), lambda batch: pytest.fail("made"), **NAMES)


def test_what_is_done_is_left_out_and_batches_are_filled_up():
    made = []
    run_rounds([[1, 2, 3, 4], [5, 6]], 2, rank(), made.append, is_done=lambda job: job in (1, 3, 5), **NAMES)
    assert made == [[2, 4], [6]]


def test_a_failing_batch_leaves_the_batches_before_it(tmp_path):
    def make(batch):
        for job in batch:
            (tmp_path / str(job)).write_text(str(1 / job))

    with pytest.raises(ZeroDivisionError):
        run_jobs([3, 2, 1, 0, 4], 1, rank(), make, **NAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3"]


def test_the_bar_counts_done_ones_but_takes_no_rate_from_them(monkeypatch):
    bars, make_bar = [], jobs.progress

    def watched(**given):
        bars.append((given, make_bar(**given)))
        return bars[-1][1]

    monkeypatch.setattr(jobs, "progress", watched)
    run_rounds([[1, 2, 3]], 2, rank(), lambda batch: None, is_done=lambda job: job == 2, **NAMES)
    run_jobs([1, 2, 3], 2, rank(1, 2), lambda batch: None, **NAMES)
    (shown, bar), (silent, _) = bars
    assert (shown["total"], shown["initial"], bar.n, shown["disable"]) == (3, 1, 3, False)
    assert silent["disable"] and silent["total"] == 1


@pytest.mark.parametrize("module", [drawing, edit_run, file_edits, scaling_run])
def test_no_sampling_program_has_a_loop_of_its_own(module):
    source = inspect.getsource(module)
    assert "run_jobs(" in source and "progress(" not in source


def test_names_that_flags_know_are_those_that_are_built():
    from autoregressive.scaling import search

    assert set(_BUILDERS) == {*REWARDS, *EDIT_REWARDS}
    assert all(callable(getattr(search, name)) for name in METHODS)
