"""measure_passes.py goes on where it was stopped, and writes the tables."""

from __future__ import annotations

import importlib
import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from autoregressive.decoding.sampling_settings import Sampling
from runtime.errors import UserError

passes = importlib.import_module("scripts.checks.passes")
config_module = importlib.import_module("scripts.checks.passes_config")


class Stopped(Exception):
    pass


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A run that makes no edits: `measured(stop_at=n)` counts its runs of edits and stops at the n-th."""
    for name in ("data", "models"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    pipeline = SimpleNamespace(defaults=SimpleNamespace(sampling=Sampling()))
    monkeypatch.setattr(passes.EditingPipeline, "from_pretrained", lambda *_: pipeline)
    edits = passes.Edits(range(2), ["a", "b"], [None, None])
    monkeypatch.setattr(passes, "read_edits", lambda *_: edits)

    def run(stop_at: int = -1, **flags) -> int:
        calls = []

        def run_edits(_pipeline, _edits, _case, how, _size):
            if len(calls) == stop_at:
                raise Stopped
            calls.append(how)
            num_passes = torch.tensor([4, 2]) if how.window == 8 else torch.tensor([8, 8])
            codes = torch.zeros(2, 16, dtype=torch.long)
            good = how.parallel == 1
            return passes.Run(
                codes, num_passes, torch.tensor([8, 8]), 1.0 if good else 0.5, 0.01 if good else 0.02, 1.0
            )

        monkeypatch.setattr(passes, "run_edits", run_edits)
        config = config_module.MeasurePasses(
            data_path=str(tmp_path / "data"), models=str(tmp_path / "models"),
            output_dir=str(tmp_path / "out"), parallels=(2, 4, 8), device=None, **flags,
        )  # fmt: skip
        passes.measure_passes(config)
        return len(calls)

    return run


def test_a_stopped_measurement_goes_on_behind_its_last_row(measured, tmp_path):
    whole = tmp_path / "out" / "passes.md"
    with pytest.raises(Stopped):
        measured(stop_at=12)
    assert not whole.exists()
    rows = json.loads((tmp_path / "out" / "passes.json").read_text())["rows"]
    assert len(rows) == 8, "12 runs: two cases begun, each with a warm run and a pass a cell"
    cases = list(passes.cases(config_module.CASES))
    runs = sum(len(case.guesses) + 3 + 2 for case in cases)
    assert measured() == runs - 12 + 2, "of the case that was stopped, the warm run and a pass a cell again"
    assert measured() == 0
    table = whole.read_text()
    for case in cases:
        line = f"| {case.name} | " + " | ".join(
            "3.00 / 2.67" if name in case.guesses else "" for name in ("independent", "source", "last")
        )
        assert f"{line} | 1.000 |" in table
        parallel = " | ".join(["0.500 / 0.0200 / 1.00"] * 3)
        assert f"| {case.name} | 1.000 / 0.0100 / 1.00 | {parallel} |" in table
    assert Image.open(tmp_path / "out" / "passes.png").size[0] > 800
    assert "zero-shot, spread order" in table and "editor, spread order" in table


def test_rows_of_other_models_or_settings_are_not_mixed(measured, tmp_path):
    measured(cases=["regeneration"])
    with pytest.raises(UserError, match="num_edits"):
        measured(cases=["regeneration"], num_edits=7)
    (tmp_path / "models" / "file").write_text("trained again")
    with pytest.raises(UserError, match="another models: choose another --output-dir"):
        measured(cases=["regeneration"])


def test_rows_of_an_earlier_version_are_not_mixed_in(measured, tmp_path):
    measured(cases=["regeneration"])
    store = tmp_path / "out" / "passes.json"
    content = json.loads(store.read_text())
    del content["settings"]["columns"]
    store.write_text(json.dumps(content))
    with pytest.raises(UserError, match="another columns: choose another --output-dir"):
        measured(cases=["regeneration"])
