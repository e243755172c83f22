"""metrics.jsonl of a run that goes on: both stages' and the tokenizer's."""

from __future__ import annotations

import json
import math

import pytest

from runtime.logging import MetricsLog
from scripts.figures.runs import read_runs


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "\udcff\udcfe\0",
        "3",
        "null",
        '"step"',
        "{}",
        '{"step": null}',
        '{"step": "7"}',
        '{"step": [1]}',
        '{"st',
        "",
    ],
)
def test_lines_that_hold_no_step_are_left_out(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    good = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3)]
    path.write_text("\n".join([good[0], line, *good[1:]]) + "\n", "utf-8", "surrogateescape")
    MetricsLog(tmp_path, resume_step=2).write(3, loss=0.5)
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    assert [(one["step"], one["loss"]) for one in lines] == [(1, 1.0), (2, 1.0), (3, 0.5)]


def test_numbers_that_are_not_finite_are_null(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(1, loss=2.0, grad_norm=1)
    log.write(2, loss=math.nan, grad_norm=math.inf, epoch=0)
    path = tmp_path / "metrics.jsonl"

    def refuse(word: str):
        raise AssertionError(f"{word} is no JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    assert lines[1] == {"step": 2, "loss": None, "grad_norm": None, "epoch": 0}
    with path.open("a") as file:  # as it was written before
        file.write('{"step": 3, "loss": NaN, "grad_norm": 3.0}\n')
    MetricsLog(tmp_path, resume_step=3).write(4, loss=1.0)
    assert read_runs([str(tmp_path)], []) == {
        tmp_path.name: {"loss": [(1, 2.0), (4, 1.0)], "grad_norm": [(1, 1), (3, 3.0)]}
    }
