"""Steps that are done are skipped, wherever results and repository have moved; changed ones are made anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.shapes import step_runner
from scripts.shapes.step_runner import StepRunner

WRITES = (
    "import os, sys; os.makedirs(sys.argv[1], exist_ok=True); open(sys.argv[1] + '/runs', 'a').write('x')"
)


def num_runs(root: Path, file: str) -> int:
    """Runs a step that reads `file`; returns how often its folder was written to since it was made."""
    output = root / "models"
    StepRunner(root).run("train", output, ["-c", WRITES, str(output), file])
    runs = len((output / "runs").read_text())
    (output / "runs").open("a").write("x")  # so that a folder that is made anew shows
    return runs


@pytest.fixture
def moved(tmp_path, monkeypatch) -> Path:
    """Results of a step that was done, in a new place, beside a repository in a new place."""
    assert num_runs(tmp_path / "old", str(step_runner.ROOT / "a.pt")) == 1
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.setattr(step_runner, "ROOT", tmp_path)
    return tmp_path / "new"


def test_what_has_moved_is_not_made_anew(moved, tmp_path):
    assert num_runs(moved, str(tmp_path / "a.pt")) == 2


def test_another_file_is_a_change(moved, tmp_path):
    assert num_runs(moved, str(tmp_path / "b.pt")) == 1
    assert num_runs(moved, str(tmp_path.parent / "b.pt")) == 1
