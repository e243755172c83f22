"""Training adapters: what trains, what is saved, and that a stopped run goes on exactly."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from conftest import ROOT, read_metrics
from test_training import STAGES, run_stage, same, stage_flags
from tiny_gpt import tiny

from autoregressive.adapters.adapted import adapted_copy
from autoregressive.adapters.files import read_adapter, write_adapter
from autoregressive.adapters.lora import TABLES, add_lora
from autoregressive.models.config import BLOCK_MATRICES
from autoregressive.models.weights import load_transformer
from runtime.checkpoint import load_checkpoint
from runtime.errors import UserError
from runtime.optim import build_optimizer
from runtime.training.ema import AveragedWeights

BASES = {"t2i": "t2i", "editing": "edit"}


def lora_flags(stage, shapes, train_flags, gpt_ckpts, *more) -> list[str]:
    flags = stage_flags(stage, shapes, train_flags)
    return [*flags, "--init-gpt-ckpt", str(gpt_ckpts[BASES[stage]]), "--lora-rank", "2", *more]


@pytest.mark.parametrize(
    "extra",
    [
        "--ema-decay 0.9",
        "--lora-dora --lora-train-tables --optimizer muon --ema-decay 0.9 --dropout-p 0.1",
        "--lora-alpha 8 --optimizer muon",
    ],
    ids=["lora", "dora and tables", "muon"],
)
@pytest.mark.parametrize("stage", STAGES)
def test_four_steps_are_two_and_a_resume_and_two(stage, extra, shapes, train_flags, gpt_ckpts, tmp_path):
    flags = lora_flags(
        stage, shapes, train_flags, gpt_ckpts, *extra.split(), "--max-steps", "4", "--ckpt-every", "2"
    )
    whole = run_stage(stage, flags, tmp_path / "whole")
    half = tmp_path / "whole" / "checkpoints" / "0000002.pt"
    torch.manual_seed(123)
    resumed = run_stage(stage, [*flags, "--gpt-ckpt", half], tmp_path / "resumed")
    for key in (
        "model",
        "optimizer",
        "sampler",
        "rng",
        "steps",
        "adapter",
        *(["ema"] if "ema" in whole else []),
    ):
        assert same(whole[key], resumed[key]), key
    losses = [line["loss"] for line in read_metrics(tmp_path / "whole")]
    assert [line["loss"] for line in read_metrics(tmp_path / "resumed")] == losses[2:]
    assert not same(load_checkpoint(half)["model"], whole["model"])


def test_a_checkpoint_holds_the_adapter_alone_and_names_its_base(shapes, train_flags, gpt_ckpts, tmp_path):
    more = ["--lora-train-tables", "--ema-decay", "0.5", "--max-steps", "2"]
    content = run_stage("editing", lora_flags("editing", shapes, train_flags, gpt_ckpts, *more), tmp_path)
    base = load_checkpoint(gpt_ckpts["edit"])["model"]
    tables = {name for name in TABLES if name in base}
    assert len(tables) == 3
    for part in ("model", "ema"):
        names = content[part].keys()
        assert {name for name in names if "lora_" not in name} == tables
        assert {name.split(".")[3] for name in names - tables} == set(BLOCK_MATRICES)
    assert content["adapter"]["base"] == str(gpt_ckpts["edit"])
    moments = content["optimizer"]["state"]
    assert len(moments) == len(content["model"])
    with pytest.raises(UserError, match=r"holds an adapter alone: load .*edit\.pt and give this"):
        load_transformer(next((tmp_path / "checkpoints").glob("*2.pt")))


@pytest.mark.parametrize(
    "changes, message",
    [
        (["--lora-rank", "3"], "LoRA of another rank: 2 there and 3 here"),
        (["--lora-alpha", "1"], r"LoRA of another alpha: 2\.0 there and 1\.0 here"),
        (["--lora-dora"], "LoRA of another dora"),
        (["--lora-targets", "wo"], r"LoRA of another targets: .* there and \('wo',\) here"),
        (["--lora-rank", "0"], "was trained with LoRA: give --lora-rank 2"),
        (["--init-gpt-ckpt", "OTHER"], "holds other weights: give that run's --init-gpt-ckpt"),
    ],
)
def test_a_resume_with_another_adapter_is_refused(changes, message, shapes, train_flags, gpt_ckpts, tmp_path):
    flags = lora_flags("t2i", shapes, train_flags, gpt_ckpts, "--max-steps", "1")
    run_stage("t2i", flags, tmp_path)
    other = load_checkpoint(gpt_ckpts["t2i"])
    for weight in other["model"].values():
        weight *= 1.01
    torch.save(other, tmp_path / "other.pt")
    changes = [str(tmp_path / "other.pt") if word == "OTHER" else word for word in changes]
    path = tmp_path / "checkpoints" / "0000001.pt"
    with pytest.raises(UserError, match=message):
        run_stage("t2i", [*flags, *changes, "--gpt-ckpt", path], tmp_path / "again")


def test_a_whole_checkpoint_is_not_gone_on_with_as_an_adapter(shapes, train_flags, gpt_ckpts, tmp_path):
    flags = [*stage_flags("t2i", shapes, train_flags), "--max-steps", "1"]
    run_stage("t2i", flags, tmp_path)
    path = tmp_path / "checkpoints" / "0000001.pt"
    flags = lora_flags("t2i", shapes, train_flags, gpt_ckpts, "--max-steps", "1")
    with pytest.raises(UserError, match="was trained without LoRA"):
        run_stage("t2i", [*flags, "--gpt-ckpt", path], tmp_path / "again")


def test_flags_that_need_others(shapes, train_flags, gpt_ckpts, tmp_path):
    flags = stage_flags("editing", shapes, train_flags)
    with pytest.raises(UserError, match="--lora-dora goes with --lora-rank"):
        run_stage("editing", [*flags, "--lora-dora"], tmp_path)
    with pytest.raises(UserError, match="an adapter needs the weights that it is added to"):
        run_stage("editing", [*flags, "--lora-rank", "2"], tmp_path)
    without_marks = [*flags, "--lora-rank", "2", "--init-gpt-ckpt", str(gpt_ckpts["t2i"])]
    with pytest.raises(UserError, match="has no mask_embedding.* give --lora-train-tables"):
        run_stage("editing", without_marks, tmp_path)
    run_stage("editing", [*without_marks, "--lora-train-tables", "--max-steps", "1"], tmp_path)


def test_some_matrices_are_adapted_and_the_others_are_as_they_were(shapes, train_flags, gpt_ckpts, tmp_path):
    more = ["--lora-targets", "wo", "wqkv", "--max-steps", "1"]
    content = run_stage("editing", lora_flags("editing", shapes, train_flags, gpt_ckpts, *more), tmp_path)
    assert {name.split(".")[3] for name in content["model"]} == {"wqkv", "wo"}
    assert content["adapter"]["targets"] == ("wqkv", "wo")
    write_adapter(content, tmp_path / "adapter", torch.float32, "a.pt")
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert set(written["target_modules"]) == {"wqkv", "wo"}
    adapter = read_adapter(tmp_path / "adapter")
    base = load_transformer(gpt_ckpts["edit"])
    merged = adapted_copy(base, adapter, merged=True).state_dict()
    changed = {n for n, weight in base.state_dict().items() if not torch.equal(weight, merged[n])}
    assert changed and {name.split(".")[3] for name in changed} <= {"wqkv", "wo"}


def test_an_adapter_trains_compiled_as_it_does_plain(shapes, train_flags, gpt_ckpts, tmp_path, monkeypatch):
    compiled, compile_it = [], torch.nn.Module.compile

    def traced(module, **settings):  # all but the kernels, which take minutes
        compiled.append(module)
        compile_it(module, backend="aot_eager", **settings)

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    more = ["--max-steps", "2", "--optimizer", "muon", "--lora-dora"]
    flags = lora_flags("editing", shapes, train_flags, gpt_ckpts, *more)
    run_stage("editing", flags, tmp_path / "plain")
    run_stage("editing", [*flags, "--compile"], tmp_path / "compiled")
    assert compiled
    plain, other = ([line["loss"] for line in read_metrics(tmp_path / n)] for n in ("plain", "compiled"))
    assert plain[0] != plain[1] and other == pytest.approx(plain, rel=1e-5)


def test_the_shipped_editor_takes_rank_16_in_attention_with_a_twentieth_of_its_parameters(caplog):
    caplog.set_level("INFO")
    model = load_transformer(ROOT / "pretrained_models" / "shapes" / "editing.safetensors")
    add_lora(model, 16, 16, "base.pt", targets=("wqkv", "wo"))
    assert "(3.45 %)" in caplog.text


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_only_the_adapter_has_gradients_moments_and_averages(optimizer, caplog):
    model = tiny(mask_in_context=True)
    caplog.set_level("INFO")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    add_lora(model, 4, 8, "base.pt")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    share = sum(p.numel() for p in trained.values()) / sum(p.numel() for p in model.parameters())
    assert f"({100 * share:.2f} %)" in caplog.text
    optimizers = build_optimizer(model, optimizer, lr=1e-2, weight_decay=0.1, betas=(0.9, 0.95))
    stepped = [p for group in optimizers.param_groups for p in group["params"]]
    assert {id(p) for p in stepped} == {id(p) for p in trained.values()}
    average = AveragedWeights(model, 0.5, counts_initial=False)
    for weight, averaged in zip(model.parameters(), average.module.parameters(), strict=True):
        assert (weight is averaged) == (not weight.requires_grad)
    for p in trained.values():
        p.grad = torch.ones_like(p)
    optimizers.step(torch.amp.GradScaler("cpu", enabled=False))
    average.update_parameters(model)
    after = {name.replace(".base_layer", ""): weight for name, weight in model.state_dict().items()}
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert dataclasses.asdict(model.lora)["tables"] == ()
