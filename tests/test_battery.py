"""The quick part of the reliability battery; the whole of it is `python -m tests.battery`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections import Counter

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))

from tests.battery.broken_promises import BREAKS  # noqa: E402
from tests.battery.cases import Assets, Case  # noqa: E402
from tests.battery.runner import TESTS, Battery, run_battery, run_case, table  # noqa: E402

COUNTS = (40, 100, 24, 121, 48, 15, 64, 12, 26, 8, 6, 20, 54, 43, 59, 28, 35, 30)
# Test number → its quick cases: all that take no process, a few of those that do.
QUICK = {
    1: [23], 2: range(0, 100, 15), 3: [3], 4: range(0, 121, 8), 5: [5], 6: [0, 7, 8, 10, 12, 14],
    7: range(0, 64, 5), 8: range(12), 9: [22], 10: [0, 5], 12: range(20),
    13: range(0, 54, 4), 14: range(0, 43, 4), 15: range(0, 59, 3), 16: range(0, 28, 3), 17: range(0, 35, 3),
    18: [0, 2],
}  # fmt: skip


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("battery")
    Assets(folder / "assets").make()
    return folder


@pytest.mark.parametrize("number", QUICK)
def test_quick_cases(number, root):
    for index in QUICK[number]:
        outcome = run_case(number, index, str(root))
        assert outcome["error"] is None, f"{outcome['case']}:\n{outcome['error']}"


@pytest.mark.slow
def test_two_machines_restart_together(root, tmp_path, monkeypatch):
    """Two torchrun agents, of which one alone counts the crash."""
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    assets = Assets(root / "assets")
    crash = [{"step": 5, "rank": 1, "how": "sigkill", "attempt": 0}]
    plan = {"stage": "t2i", "log": str(tmp_path), "crash": crash}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    command += [
        "--rdzv_id=two",
        "--rdzv_backend=c10d",
        f"--rdzv_endpoint=localhost:{port}",
        "--max-restarts=3",
    ]
    command += ["-m", "tests.battery.worker", tmp_path / "plan.json", *assets.train_flags()]
    command += ["--data-path", assets.shapes / "train" / "t2i.jsonl", "--results-dir", tmp_path / "results"]
    command += ["--max-steps", 8, "--ckpt-every", 2]
    agents = [
        subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = "".join(agent.communicate(timeout=180)[1] for agent in agents)
    assert [agent.returncode for agent in agents] == [0, 0], said[-4000:]
    assert "going on from the newest whole checkpoint" in said
    assert (tmp_path / "results" / "checkpoints" / "0000008.pt").exists()


def test_the_battery_has_733_cases_with_names_of_their_own():
    names = [[case.name for case in module.cases()] for _, module in TESTS]
    assert tuple(map(len, names)) == COUNTS and sum(COUNTS) == 733
    for name in names:
        assert not [case for case, count in Counter(name).items() if count > 1]


def test_every_promise_has_a_line_that_can_be_broken():
    for broken in BREAKS:
        assert (ROOT / broken.file).read_text().count(broken.old) == 1, broken
        if isinstance(broken.test, str):
            assert f"def {broken.case}(" in (ROOT / broken.test).read_text(), broken
        else:
            assert broken.chosen(), broken
    assert {broken.promise for broken in BREAKS} == set(range(1, 11))


def test_a_failing_case_fails_the_battery_and_is_run_again(tmp_path, monkeypatch, capsys):
    def fail(assets, folder):
        raise AssertionError("as planned")

    def succeed(assets, folder):
        pass

    monkeypatch.setattr(TESTS[7][1], "cases", lambda: [Case("one", succeed), Case("two", fail)])
    monkeypatch.setattr("tests.battery.runner.ProcessPoolExecutor", InPlace)
    config = Battery(results_dir=str(tmp_path), only=8)
    outcomes = run_battery(config)
    assert [outcome["error"] is None for outcome in outcomes] == [True, False]
    assert table(outcomes, [8]).splitlines()[1].split()[-4:-1] == ["2", "1", "1"]
    assert "as planned" in capsys.readouterr().out
    monkeypatch.setattr(TESTS[7][1], "cases", lambda: [Case("one", fail), Case("two", succeed)])
    assert all(outcome["error"] is None for outcome in run_battery(config)), "only the failed one runs again"
    assert len(json.loads((tmp_path / "results.json").read_text())["outcomes"]) == 2


class InPlace:
    """A pool that runs everything at once, here."""

    def __init__(self, *_) -> None:
        pass

    def __enter__(self) -> InPlace:
        return self

    def __exit__(self, *_) -> None:
        pass

    def submit(self, function, *arguments):
        from concurrent.futures import Future

        future: Future = Future()
        future.set_result(function(*arguments))
        return future
