"""metrics.jsonl of a run that goes on: both stages' and the tokenizer's."""

from __future__ import annotations

import json

import pytest

from runtime.logging import MetricsLog


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
