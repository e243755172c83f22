"""The tables of a study: means over seeds, differences seed by seed, files that do not fit."""

from __future__ import annotations

import json

import pytest

from runtime.errors import UserError
from scripts.rewards.study import ROWS, read_study, tables

SHARES = {"start": (0.8, 0.6), "rewards": (0.9, 0.9), "supervised": (0.9, 0.7)}


def write(root, row, seed, share, case="given, raster"):
    kinds = {"add": {"passed_and_unchanged": share - 0.1}, "remove": {"passed_and_unchanged": 1.0}}
    scores = {case: {"passed_and_unchanged": share, "by_kind": kinds}}
    (root / f"{row}_{seed}.json").write_text(json.dumps({"scores": scores}))


@pytest.fixture
def study(tmp_path):
    for row in ROWS:
        for seed, share in enumerate(SHARES.get(row, (0.85, 0.85))):
            write(tmp_path, row, seed, share)
    return tmp_path


def test_means_and_differences_over_seeds(study):
    lines = [line.split(" | ") for line in tables(read_study(study, [0, 1])).splitlines() if " | " in line]
    cells = {line[0].strip("| "): [cell.strip("| ") for cell in line[1:]] for line in lines}
    assert cells["given, raster"] == ["all edits", "add", "remove"]
    # Of two values half the interval is 12.706 / 2 times their difference.
    assert cells["the start"] == ["0.700 ± 1.271", "0.600 ± 1.271", "1.000 ± 0.000"]
    assert cells["rewards - the start"] == ["0.200 ± 1.271", "0.200 ± 1.271", "0.000 ± 0.000"]
    assert cells["rewards - further supervised steps"][0] == "0.100 ± 1.271"
    # Of the adds 0.4 were missing, of which 0.2 came; of the removes none.
    assert cells["share of what was missing that rewards gained"] == ["0.67", "0.50", "-"]


def test_files_that_are_missing_or_do_not_fit(study):
    assert "0.800 |" in tables(read_study(study, [0]))
    with pytest.raises(UserError, match=r"start_2\.json.*rewards_study\.sh"):
        read_study(study, [0, 2])
    write(study, "rewards", 1, 0.5, "found, raster")
    with pytest.raises(UserError, match=r"rewards_1\.json holds found, raster; others hold given, raster"):
        read_study(study, [0, 1])
