"""What the tokenizer's and the transformer's trainings share: state, averages, checkpoints, meter."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import time

import pytest
import torch
from conftest import ROOT, read_metrics, run_threads

from autoregressive.train.meter import Meter
from autoregressive.train.state import TrainState
from runtime.checkpoint import load_checkpoint
from runtime.distributed import ONE_RANK
from runtime.errors import UserError
from runtime.stopping import Loading, StopSignals, leave_signals_to_the_trainer
from runtime.training import meter as meters
from runtime.training.checkpoints import Checkpoints, due, list_checkpoints
from runtime.training.meter import Means, TrainingMeter
from runtime.training.state import RunState
from tokenizer.tokenizer_image.vq_state import VQTrainState


def test_both_trainings_stand_on_the_same_parts():
    assert issubclass(TrainState, RunState) and issubclass(VQTrainState, RunState)
    assert issubclass(Meter, TrainingMeter)


@pytest.mark.parametrize(
    "word",
    [
        "swa_utils",
        "MetricsLog(",
        "WandbRun(",
        "prune_checkpoints(",
        "GradScaler(",
        "SystemExit(self",
        "--bad-sample-budget {",
    ],
)
def test_there_is_one_of_each(word):
    files = [
        path for room in ("runtime", "tokenizer", "autoregressive") for path in (ROOT / room).rglob("*.py")
    ]
    users = [path for path in files if word in path.read_text().replace(f"class {word}", "")]
    assert len(users) == 1 and users[0].is_relative_to(ROOT / "runtime"), users


def test_nothing_comes_at_an_interval_of_zero():
    assert [step for step in range(1, 7) if due(3, step)] == [3, 6]
    assert not any(due(every, step) for every in (0, -1) for step in range(7))


@pytest.mark.parametrize(("parts", "expected"), [(True, 1.0 + 3.0), (False, 2.0)])
def test_means_are_over_the_steps_and_of_parts_or_ranks(parts, expected):
    def work(ranks):
        means, readings = Means(ranks, torch.float64, parts=parts), []
        for start in (0.0, 10.0):
            for step in (0.0, 2.0):
                means.add(loss=torch.tensor(start + step + 2 * ranks.rank), flops=start)
            readings.append(means.read())
        return readings

    for first, second in run_threads(2, work):
        assert first == {"loss": expected, "flops": 0.0}
        assert second["flops"] == (20.0 if parts else 10.0)  # of the steps since the last reading alone


@pytest.mark.parametrize(("parts", "expected"), [(True, 2.0), (False, 1.0)])
def test_a_step_without_a_number_does_not_spoil_the_mean_of_the_others(parts, expected):
    """Skipped, as its loss is not finite on one rank; or of a loss that takes part from a later step on."""

    def work(ranks):
        means = Means(ranks, torch.float64, parts=parts)
        for step, loss in enumerate((0.5, math.nan if ranks.rank else 7.0, 1.5, math.inf)):
            means.add(loss=torch.tensor(loss), nowhere=math.nan, **({"late": 4.0} if step == 3 else {}))
        return means.read()

    for found in run_threads(2, work):
        assert math.isnan(found.pop("nowhere"))
        assert found == {"loss": expected, "late": 8.0 if parts else 4.0}


def test_speed_is_that_of_the_steps_since_the_last_line_without_pauses(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(meters.time, "perf_counter", lambda: now[0])
    with TrainingMeter(str(tmp_path), 4, 10, ONE_RANK, desc="training") as meter:
        for seconds in (2.0, 1.0):
            for _ in range(2):
                now[0] += seconds
                meter.count_step()
                with meter.paused():
                    now[0] += 100
            speed = meter.read_speed(step=8, batch_size=8)
            assert speed == (seconds, 8 / seconds, 2 * seconds)
        meter.write(8, loss=0.5)
    assert read_metrics(tmp_path) == [{"step": 8, "loss": 0.5}]


def test_the_main_rank_alone_writes(tmp_path):
    def work(ranks):
        with TrainingMeter(str(tmp_path / str(ranks.rank)), 0, 2, ranks, desc="training") as meter:
            meter.count_step()
            meter.write(1, loss=0.5)

    run_threads(2, work)
    assert json.loads((tmp_path / "0" / "metrics.jsonl").read_text()) == {"step": 1, "loss": 0.5}
    assert not (tmp_path / "1").exists()


def test_a_checkpoint_with_a_weight_that_is_no_number_leaves_the_others(tmp_path):
    checkpoints = Checkpoints(str(tmp_path), keep=1)
    assert checkpoints.save(1, {"model": {"a": torch.ones(2)}}) == tmp_path / "checkpoints" / "0000001.pt"
    with pytest.raises(UserError, match="0000002.pt is not written: the ema's a holds NaN"):
        checkpoints.save(2, {"model": {"a": torch.ones(2)}, "ema": {"a": torch.tensor([1.0, torch.nan])}})
    assert [path.stem for path in list_checkpoints(tmp_path / "checkpoints")] == ["0000001"]
    last = checkpoints.save(3, {"model": {"a": torch.zeros(2)}})
    assert list_checkpoints(tmp_path / "checkpoints") == [last]
    assert torch.equal(load_checkpoint(last)["model"]["a"], torch.zeros(2))


def test_all_ranks_hear_of_a_signal(capfd):
    def work(ranks):
        signals = StopSignals()
        signals.received = 2 * ranks.rank  # rank 1 alone got SIGINT
        heard = int(signals.heard_by(ranks))
        with pytest.raises(SystemExit) as end:
            signals.end_run(7)
        return heard, end.value.code

    assert run_threads(2, work) == [(1, 128 + 15), (1, 128 + 2)]
    assert capfd.readouterr().err.count("stopped by a signal at step 7; --auto-resume goes on") == 2


class BigBatches(torch.utils.data.Dataset):
    """Batches that do not fit into a pipe: a process hands each over in parts."""

    def __len__(self):
        return 99

    def __getitem__(self, index):
        return bytes(1 << 20)


def _as_it_is(batch):
    return batch


@pytest.mark.parametrize("trainer_too", [False, True])
def test_a_loader_process_that_a_signal_ends_is_told_to_a_trainer_that_had_none(trainer_too, monkeypatch):
    def hangs(*_):
        raise TimeoutError

    monkeypatch.setattr("runtime.stopping.WORKER_GRACE", 1)
    settings = {"batch_size": None, "collate_fn": _as_it_is, "num_workers": 1}
    loader = torch.utils.data.DataLoader(
        BigBatches(), **settings, worker_init_fn=leave_signals_to_the_trainer
    )
    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGTERM)}
    signal.signal(signal.SIGALRM, hangs)
    try:
        with StopSignals() as signals, Loading(loader) as batches:
            batches.next()
            (process,) = multiprocessing.active_children()
            for pid in (process.pid, *([os.getpid()] if trainer_too else [])):
                os.kill(pid, signal.SIGTERM)
            if trainer_too:  # its last step takes longer than the process waits, and no error disturbs it
                process.join()
                assert signals.received == signal.SIGTERM
            else:
                signal.alarm(60)
                started = time.monotonic()
                with pytest.raises(RuntimeError, match=f"pid {process.pid}. exited unexpectedly"):
                    while True:
                        time.sleep(0.1)
                        if time.monotonic() > started + 2:
                            batches.next()
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
