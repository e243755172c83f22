"""What users import, from where, and that old addresses still work for a release."""

from __future__ import annotations

import importlib
import sys

import pytest
from conftest import run_program

import autoregressive
from autoregressive import (
    AutoMaskSettings,
    EditingPipeline,
    EditQueue,
    EditResult,
    EditSession,
    QueueFullError,
    Sampling,
    UserError,
)


def test_the_short_home_has_what_users_need():
    assert set(autoregressive.__all__) <= set(dir(autoregressive))
    assert EditingPipeline.__module__ == "autoregressive.editing.pipeline"
    assert issubclass(QueueFullError, UserError) and UserError.__module__ == "runtime.errors"
    kinds = AutoMaskSettings, EditQueue, EditResult, EditSession, Sampling
    assert all(isinstance(kind, type) for kind in kinds)
    with pytest.raises(AttributeError, match="no attribute 'EditingPipelines'"):
        _ = autoregressive.EditingPipelines


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("pipeline", ["EditingPipeline", "Drawing", "EditResult", "Progress", "MODES", "Picture", "Mask"]),
        ("session", ["EditSession", "EditTurn", "OPTIONS"]),
    ],
)
def test_old_addresses_warn_and_give_the_same(name, given, monkeypatch):
    monkeypatch.delitem(sys.modules, f"autoregressive.{name}", raising=False)
    with pytest.warns(FutureWarning, match=f"autoregressive.{name} has moved"):
        old = importlib.import_module(f"autoregressive.{name}")
    assert all(hasattr(old, one) for one in given)
    if name == "pipeline":
        assert old.EditingPipeline is EditingPipeline


def test_importing_the_package_imports_no_torch():
    done = run_program("-c", "import autoregressive, sys; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False"
