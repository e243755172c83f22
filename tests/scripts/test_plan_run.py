"""The plan of a training, against what a model, a checkpoint and a packed set really take."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from autoregressive.models.config import GPT_MODELS
from autoregressive.models.gpt import Transformer
from autoregressive.models.loss import SupervisedLoss
from autoregressive.sequence.builders import editing_layout, t2i_layout
from runtime.checkpoint import save_checkpoint
from runtime.config import parse
from runtime.errors import UserError
from runtime.optim import build_optimizer
from runtime.training.checkpoints import count_saves, due
from scripts.planning.config import PlanRun
from scripts.planning.plan import GB, make_plan, model_config, show


def plan_of(*flags: object):
    return make_plan(parse(PlanRun, list(map(str, flags))))


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "muon"])
def test_a_checkpoint_takes_what_is_planned(optimizer, tmp_path):
    flags = ["--gpt-model", "R-GPT-mini", "--image-size", "64", "--optimizer", optimizer, "--num-gpus", "1"]
    plan, model = plan_of(*flags), Transformer(model_config(parse(PlanRun, flags)))
    assert plan.parameters == sum(weight.numel() for weight in model.parameters())
    optimizers = build_optimizer(model, optimizer, lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95))
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizers.step(torch.amp.GradScaler("cpu", enabled=False))
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"model": model.state_dict(), "optimizer": optimizers.state_dict()})
    buffers = sum(buffer.numel() * 4 for buffer in model.state_dict().values()) - 4 * plan.parameters
    assert path.stat().st_size - buffers == pytest.approx(plan.checkpoint, rel=0.01)
    held = 4 * plan.parameters  # and the gradients
    assert plan.states == pytest.approx(plan.checkpoint + held)


def test_what_is_sharded_is_divided():
    whole = plan_of("--num-gpus", "8")
    sharded = plan_of("--num-gpus", "8", "--parallel", "fsdp")
    groups = plan_of("--num-gpus", "8", "--parallel", "hsdp", "--shard-size", "2")
    assert whole.states == 16 * whole.parameters and whole.gathered == 0
    assert sharded.states == whole.states / 8 and groups.states == whole.states / 2
    assert sharded.gathered < 0.1 * whole.states and whole.checkpoint == sharded.checkpoint
    with pytest.raises(UserError, match="--shard-size 3 does not divide --num-gpus 8"):
        plan_of("--num-gpus", "8", "--parallel", "hsdp", "--shard-size", "3")
    with pytest.raises(UserError, match="--gpu abacus: its peak is not known.*--peak-tflops"):
        plan_of("--gpu", "abacus")


@pytest.mark.parametrize("every", [-1, 0, 1, 3, 4, 5, 10, 30, 100])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_checkpoints_are_counted_as_trainings_write_them(every, epochs):
    """At a period, at ends of epochs of ten steps, at the last step, and once where these fall together."""
    steps = range(1, 10 * epochs + 1)
    ends = {step for step in steps if step % 10 == 0}
    of_period = {step for step in steps if due(every, step)}
    plan = plan_of("--num-samples", 102, "--global-batch-size", 10, "--epochs", epochs, "--ckpt-every", every)
    assert plan.num_saves == len(ends | of_period)
    assert count_saves(10 * epochs - 1, every) == len({s for s in of_period if s < 10 * epochs - 1}) + 1


def test_another_device_and_another_tokenizer():
    plan = plan_of("--peak-tflops", "2", "--utilisation", "0.5", "--num-gpus", "3")
    assert plan.hours == pytest.approx(plan.flops / 3e12 / 3600)
    small = plan_of("--codebook-size", "512", "--t5-feature-dim", "128")
    config = GPT_MODELS["R-GPT-XL"]
    fewer = (
        2 * (config.vocab_size - 512) + 2048 - 128
    ) * config.dim  # codes in and out, the first of captions
    assert plan.parameters - small.parameters == fewer and small.flops < plan.flops


def test_twice_the_machine_takes_half_the_time_and_twice_the_data_twice_the_disk():
    plan, more = plan_of("--num-samples", "1024000"), plan_of("--num-samples", "2048000", "--num-gpus", "32")
    assert more.hours == pytest.approx(plan.hours / 2) and more.data == 2 * plan.data
    # 256 cells of two images in 16 bits, a bit a cell, 30 tokens of 2048 numbers in 16 bits
    assert plan.data == 1024000 * (2 * 256 * 2 + 256 / 8 + 30 * 2048 * 2)
    assert plan.steps == 4000 and plan.slots == pytest.approx(30 + 2 * 256 + 0.3 * 256 - 1)
    t2i = plan_of("--stage", "t2i")
    assert t2i.slots == 30 + 255 and t2i.data < plan_of().data


@pytest.mark.parametrize("stage", ["t2i", "editing"])
def test_a_training_step_makes_the_operations_that_are_planned(stage):
    """Counted by PyTorch: of the last layer fewer, and attention to slots behind a slot, which are hidden."""
    words, edited, samples = 10, 20, 3
    flags = ["--stage", stage, "--gpt-model", "R-GPT-mini", "--image-size", "128", "--text-tokens", words]
    flags += ["--edited-share", edited / 64, "--global-batch-size", samples, "--num-samples", samples]
    plan, config = plan_of(*flags), model_config(parse(PlanRun, list(map(str, flags))))
    loss, text_valid = SupervisedLoss(Transformer(config)), torch.ones(samples, words, dtype=torch.bool)
    codes = torch.randint(config.vocab_size, (2, samples, 64))
    if stage == "t2i":
        layout = t2i_layout(codes[0], torch.arange(64).expand(samples, -1), text_valid)
    else:
        edit_mask = (torch.arange(64) < edited).expand(samples, -1)
        layout = editing_layout(*codes, edit_mask, text_valid, config.vocab_size)
    with FlopCounterMode(display=False) as counter:
        loss(layout, torch.randn(samples, words, config.caption_dim)).backward()
    assert counter.get_total_flops() == pytest.approx(plan.flops, rel=0.1)


def test_the_table_names_all_of_it(capsys):
    show(parse(PlanRun, ["--gpt-model", "R-GPT-7B", "--parallel", "fsdp", "--num-gpus", "64"]))
    said = capsys.readouterr().out
    plan = plan_of("--gpt-model", "R-GPT-7B", "--parallel", "fsdp", "--num-gpus", "64")
    assert f"{plan.states / GB:.2f} GB a rank" in said and "R-GPT-7B" in GPT_MODELS and "an hour" in said
