"""The program: it learns, goes on exactly, is the same on two ranks, and leaves out what cannot be judged."""

from __future__ import annotations

import json
import math
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, read_metrics, run_program
from test_training import same

from autoregressive.scaling.weighted import Judgement
from autoregressive.train.rewards.config import RewardsConfig
from autoregressive.train.rewards.learner import Update
from autoregressive.train.rewards.loop import Stepping
from autoregressive.train.rewards.stage import train_rewards
from runtime.checkpoint import load_checkpoint
from runtime.config import parse
from runtime.distributed import distributed
from runtime.errors import UserError

PROGRAM = "autoregressive/train/train_rewards.py"


@pytest.fixture
def flags(shapes, vq_ckpt, gpt_ckpts, t5_dir):
    """Of a tiny run; the results folder is the caller's."""

    def of(task: str, *more: object) -> list[str]:
        words = ["--task", task, "--vq-ckpt", vq_ckpt, "--t5-path", t5_dir, "--device", "cpu"]
        words += ["--init-gpt-ckpt", gpt_ckpts["edit" if task == "editing" else "t2i"]]
        words += ["--data-path", shapes / "train" / ("t2i.jsonl" if task == "t2i" else "editing.jsonl")]
        words += ["--num-workers", 0, "--log-every", 1, "--global-batch-size", 2, "--group-size", 4]
        words += ["--lr", "1e-3", "--groups-per-pass", 1, "--epochs", 100]
        return [*map(str, [*words, *more])]

    return of


def run(words: list[str], results) -> dict:
    """Trains in this process; returns the newest checkpoint."""
    with distributed("cpu") as ranks:
        train_rewards(parse(RewardsConfig, [*words, "--results-dir", str(results)]), ranks)
    return load_checkpoint(sorted((results / "checkpoints").glob("*.pt"))[-1])


@pytest.mark.parametrize("task", ["editing", "infill", "t2i"])
def test_what_is_rewarded_comes_more_often(task, flags, tmp_path):
    words = flags(task, "--rewards", "toy_rewards:brightness", "--max-steps", 8, "--lr", "3e-3")
    words += ["--regions", "all"] if task != "t2i" else []
    words += ["--orders", "raster", "random", "--preview-every", "4", "--max-checkpoints", "1"]
    run(words, tmp_path)
    lines = read_metrics(tmp_path)
    rewards, kls = [line["reward"] for line in lines], [line.get("kl", 0) for line in lines]
    assert rewards[-1] > rewards[0] + lines[0]["reward_spread"]
    assert kls[0] == 0 < max(kls) and lines[0]["entropy"] > 0
    assert len(list((tmp_path / "previews").glob("*.png"))) == 3 and (tmp_path / "strip.png").exists()


@pytest.mark.parametrize(
    "extra",
    [
        ["--updates-per-batch", "2", "--kl-weight", "0.5"],
        ["--optimizer", "muon", "--ema-decay", "0.9"],
        ["--lora-rank", "2", "--lora-dora", "--updates-per-batch", "2"],
    ],
)
def test_four_steps_are_two_and_a_resume_and_two(extra, flags, tmp_path):
    words = flags("editing", "--rewards", "shapes", "toy_rewards:of_the_case:0.5", "--max-steps", 4, *extra)
    words += ["--ckpt-every", "2", "--orders", "random", "raster", "--regions", "found", "given"]
    whole = run(words, tmp_path / "whole")
    half = tmp_path / "whole" / "checkpoints" / "0000002.pt"
    torch.manual_seed(123)
    resumed = run([*words, "--gpt-ckpt", str(half)], tmp_path / "resumed")
    for key in ("model", "optimizer", "sampler", "rng", "steps", "start", *["ema"] * ("ema" in whole)):
        assert same(whole[key], resumed[key]), key
    before = load_checkpoint(half)["model"]
    assert not same(before, whole["model"])
    assert ("adapter" in whole) == ("--lora-rank" in extra) == ("norm.weight" not in whole["model"])
    lines = [
        {k: v for k, v in line.items() if "second" not in k} for line in read_metrics(tmp_path / "whole")
    ]
    again = read_metrics(tmp_path / "resumed")
    assert [{k: v for k, v in line.items() if "second" not in k} for line in again] == lines[2:]


def test_two_ranks_train_as_one(flags, tmp_path, monkeypatch):
    """Ranks learn from different numbers of groups: of some the reward fails."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    words = flags("t2i", "--rewards", "toy_rewards:raises_at_red", "shapes", "--max-steps", 3)
    words += ["--optimizer", "sgd", "--lr", "0.003", "--updates-per-batch", "2", "--global-batch-size", "4"]
    one = run(words, tmp_path / "one")
    run_program(PROGRAM, *words, "--results-dir", tmp_path / "two", ranks=2)
    two = load_checkpoint(tmp_path / "two" / "checkpoints" / "0000003.pt")
    start = load_checkpoint(words[words.index("--init-gpt-ckpt") + 1])["model"]
    moved = max((one["model"][name] - weight).abs().max() for name, weight in start.items())
    for name, weight in one["model"].items():
        torch.testing.assert_close(weight, two["model"][name], atol=1e-3 * float(moved), rtol=0)
    for a, b in zip(read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two"), strict=True):
        for name in ("reward", "reward_shapes", "reward_spread", "equal_groups", "failed_groups", "kl"):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-6), name
    assert any(0 < line["failed_groups"] < 1 for line in read_metrics(tmp_path / "one"))


def test_a_group_that_cannot_be_judged_is_left_out_by_name(flags, tmp_path, capsys):
    words = flags("editing", "--rewards", "toy_rewards:nan_at_blue", "toy_rewards:raises_at_red")
    run([*words, "--max-steps", "6"], tmp_path)
    said = capsys.readouterr().err
    assert "editing.jsonl line" in said and "group left out" in said
    assert "the reward 'toy_rewards:nan_at_blue' gave nan" in said
    assert "the reward 'toy_rewards:raises_at_red' raised ZeroDivisionError: no red, please" in said
    lines = read_metrics(tmp_path)
    assert 0 < sum(line["failed_groups"] for line in lines) / len(lines) < 1


def test_rewards_that_never_work_end_the_run(flags, tmp_path):
    words = flags("editing", "--rewards", "toy_rewards:too_few", "--max-steps", 20)
    message = r"no group of the last 10 steps .* 'toy_rewards:too_few' gave 1 scores for 4 images"
    with pytest.raises(UserError, match=message):
        run(words, tmp_path)
    words[words.index("toy_rewards:too_few")] = "toy_rewards:missing"
    with pytest.raises(UserError, match="the module toy_rewards has no 'missing'"):
        run(words, tmp_path / "other")


def test_a_step_that_was_skipped_is_no_part_of_what_is_watched():
    """Its codes have no KL, and one that is not a number would spoil that of a whole log line."""
    judgements, differ = [Judgement([0.0, 1.0], {"shapes": [0.0, 1.0]})], torch.tensor([True])
    stepping = SimpleNamespace(config=SimpleNamespace(rewards=["shapes:1.0"]))
    for norm, kl, codes in ((2.0, 3.0, 6), (math.nan, 0.0, 0)):
        update = Update(norm, torch.tensor([norm + 1, norm, norm]), 6)
        counts = Stepping._counts(stepping, judgements, torch.tensor([[0.0, 1.0]]), differ, update)
        assert (counts["kl"], counts["codes"], counts["reward"], counts["spread"]) == (kl, codes, 1.0, 0.5)


def test_equal_rewards_are_counted_and_change_nothing(flags, tmp_path):
    words = flags("t2i", "--rewards", "toy_rewards:nan_at_blue", "--max-steps", 3)
    ended = run(words, tmp_path)
    assert all(line["equal_groups"] + line["failed_groups"] == 1 for line in read_metrics(tmp_path))
    assert all("grad_norm" not in line for line in read_metrics(tmp_path))
    start = load_checkpoint(words[words.index("--init-gpt-ckpt") + 1])["model"]
    assert all(torch.equal(ended["model"][name], weight) for name, weight in start.items())


def test_the_largest_rewards_are_learned_from_and_last_digits_are_not(flags, tmp_path):
    words = flags("t2i", "--max-steps", 1, "--rewards")
    run([*words, "toy_rewards:hopeless_but_one:2"], tmp_path / "large")
    (line,) = read_metrics(tmp_path / "large")
    assert 0 < line["grad_norm"] < 1e6 and line["reward_spread"] == pytest.approx(2.947e38, rel=1e-3)
    run([*words, "toy_rewards:last_digits"], tmp_path / "equal")
    (line,) = read_metrics(tmp_path / "equal")
    assert line["equal_groups"] == 1 and "grad_norm" not in line


def test_where_nothing_is_judged_no_reward_is_logged(flags, tmp_path):
    run(flags("t2i", "--rewards", "toy_rewards:too_few", "--max-steps", 1), tmp_path)
    (line,) = read_metrics(tmp_path)
    assert line["failed_groups"] == 1 and not any(name.startswith("reward") for name in line)


def test_unusable_prompts_are_named_and_too_many_end_the_run(flags, shapes, tmp_path):
    lines = (shapes / "train" / "editing.jsonl").read_text().splitlines()
    broken = [json.loads(line) | {"file_name": "images/none.png"} for line in lines[:20]]
    data = shapes / "train" / "broken.jsonl"
    data.write_text("\n".join([*map(json.dumps, broken), *lines[20:]]))
    words = flags("editing", "--rewards", "shapes_edit", "--max-steps", 3)
    words[words.index("--data-path") + 1] = str(data)
    run([*words, "--bad-sample-budget", "1"], tmp_path / "patient")  # with steps that have no prompt at all
    with pytest.raises(UserError, match="unusable prompts in this epoch"):
        run(words, tmp_path / "strict")


def test_a_signal_saves_and_the_run_goes_on(flags, tmp_path, monkeypatch):
    words = flags("t2i", "--rewards", "toy_rewards:brightness", "--max-steps", 3)
    step = "autoregressive.train.rewards.loop.Stepping._check_norm"
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(step, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        run(words, tmp_path / "stopped")
    assert ended.value.code == 128 + signal.SIGTERM
    whole, resumed = run(words, tmp_path / "whole"), run([*words, "--auto-resume"], tmp_path / "stopped")
    assert resumed["steps"] == 3 and same(whole["model"], resumed["model"])


@pytest.mark.parametrize(
    ("task", "extra", "message"),
    [
        ("editing", ["--rewards", "shape"], "'shape' is not known; use one of clip, "),
        ("editing", ["--rewards", "no_such_module:x"], "cannot be imported"),
        ("editing", ["--rewards", "shapes:nan"], "must be a finite number"),
        ("editing", ["--rewards", "shapes", "shapes:2"], "name each reward once"),
        ("editing", ["--rewards", "likelihood"], "needs --reward-gpt-ckpt"),
        ("editing", ["--rewards", "shapes", "--temperature", "0"], "--temperature 0.0: must be"),
        ("editing", ["--rewards", "shapes", "--batch-size", "2"], "less than a group"),
        ("editing", ["--rewards", "shapes", "--optimizer", "muon", "--mixed-precision", "fp16"], "fp16 loss"),
        ("t2i", ["--rewards", "shapes", "--regions", "all"], "leave out --regions"),
        ("infill", ["--rewards", "shapes", "--regions", "found"], "only editors find"),
    ],
)
def test_flags_that_mean_nothing_are_refused(task, extra, message, flags, tmp_path):
    with pytest.raises(UserError, match=message):
        run(flags(task, *extra), tmp_path)


def test_models_that_cannot_do_it_are_refused(flags, gpt_ckpts, tmp_path):
    words = flags("t2i", "--rewards", "shapes")
    words[words.index("--init-gpt-ckpt") + 1] = str(gpt_ckpts["edit"])
    with pytest.raises(UserError, match="is an editor, of which --task editing is trained"):
        run(words, tmp_path)


def test_a_resume_from_another_start_is_refused(flags, gpt_ckpts, tmp_path):
    words = flags("t2i", "--rewards", "toy_rewards:brightness", "--max-steps", 1)
    run(words, tmp_path / "run")
    ended = tmp_path / "run" / "checkpoints" / "0000001.pt"
    words += ["--gpt-ckpt", str(ended), "--results-dir", str(tmp_path / "other")]
    words[words.index("--init-gpt-ckpt") + 1] = str(ended)
    with pytest.raises(UserError, match="started from other weights"):
        run(words, tmp_path / "other")
    words[words.index("--gpt-ckpt") + 1] = str(gpt_ckpts["t2i"])
    with pytest.raises(UserError, match="is no checkpoint of a training by rewards"):
        run(words, tmp_path / "another")


def test_a_resume_with_another_adapter_is_told_so(flags, tmp_path):
    """Adapter and seed make the start too, and the weights of --init-gpt-ckpt are the right ones."""
    words = flags("t2i", "--rewards", "toy_rewards:brightness", "--max-steps", 1)
    adapter = ["--lora-rank", "2"]
    run([*words, *adapter], tmp_path / "run")
    words += ["--gpt-ckpt", str(tmp_path / "run" / "checkpoints" / "0000001.pt")]
    with pytest.raises(UserError, match="was trained with LoRA: give --lora-rank 2"):
        run(words, tmp_path / "a")
    with pytest.raises(UserError, match="LoRA of another rank: 2 there and 4 here"):
        run([*words, "--lora-rank", "4"], tmp_path / "b")
    with pytest.raises(UserError, match="give --global-seed 0"):
        run([*words, *adapter, "--global-seed", "1"], tmp_path / "c")
