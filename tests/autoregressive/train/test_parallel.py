"""Sharded trainings give what those with whole weights give, and go on on any number of ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT, read_metrics
from test_gpu import train_packed
from test_training import run_stage, same, stage_flags
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from autoregressive.train import stages
from autoregressive.train.config import T2IConfig
from autoregressive.train.state import save
from runtime.checkpoint import load_checkpoint
from runtime.config import parse
from runtime.distributed import ONE_RANK, Distributed
from runtime.errors import UserError
from runtime.optim import build_optimizer
from runtime.training.checkpoints import Checkpoints
from runtime.training.parallel import Parts, parallel, sharding_of

STEPS = 8
OPTIMIZERS = {"t2i": ["--optimizer", "adamw"], "editing": ["--optimizer", "muon", "--ema-decay", "0.9"]}
SAVED = "0000003.dcp"
ADAPTER = "--lora-rank 2 --lora-dora --lora-train-tables --ema-decay 0.9 --lr 1e-3 --max-steps 5".split()
ADAPTER += ["--ckpt-every", "3"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def runs(shapes, train_flags, gpt_ckpts, tmp_path_factory) -> Path:
    """A folder for each training of the plan."""
    root = tmp_path_factory.mktemp("parallel")

    def job(stage: str, name: str, *flags: object, **more: object) -> dict:
        words = [*stage_flags(stage, shapes, train_flags), *flags, "--results-dir", root / name]
        return {"stage": stage, "flags": list(map(str, words)), **more}

    def of_kind(stage: str, kind: str) -> dict:
        more = ["--max-steps", STEPS, "--gradient-accumulation-steps", 2, "--checkpoint", "file"]
        return job(stage, f"{stage}-{kind}", *OPTIMIZERS[stage], *more, "--parallel", kind)

    def resave(ranks: int) -> dict:
        return job("t2i", f"on{ranks}", *sharded, "--gpt-ckpt", saved, resave=True)

    def coded(name: str, *flags: object, **more: object) -> dict:
        flags = ["--optimizer", "adamw8bit", "--max-steps", 3, *flags]
        return job("t2i", f"coded-{name}", *flags, **more)

    sharded = ["--parallel", "fsdp", "--optimizer", "muon", "--ema-decay", "0.9", "--max-steps", 3]
    saved = root / "four" / "checkpoints" / SAVED
    hsdp = ["--parallel", "hsdp", "--shard-size", 2, "--max-steps", 3, "--checkpoint", "file"]
    four = [
        job("t2i", "four", *sharded, "--preview-every", 3),
        resave(4),
        job("t2i", "hsdp", *hsdp, "--activation-checkpointing"),
        coded("four", "--parallel", "fsdp"),
    ]
    two = [of_kind(stage, kind) for stage in OPTIMIZERS for kind in ("ddp", "fsdp")]
    adapter = [*ADAPTER, "--init-gpt-ckpt", gpt_ckpts["edit"]]
    two += [job("editing", f"lora-{kind}", *adapter, "--parallel", kind) for kind in ("ddp", "fsdp")]
    two.append(job("editing", "lora-again", *adapter, "--gpt-ckpt", root / "lora-fsdp/checkpoints" / SAVED))
    two += [
        resave(2),
        job("t2i", "import", *sharded, "--gpt-ckpt", root / "on2/checkpoints/0000003.pt", resave=True),
    ]
    of_four = root / "coded-four" / "checkpoints" / SAVED
    two += [coded(kind, "--parallel", kind, "--checkpoint", "file") for kind in ("ddp", "fsdp")]
    two += [coded("on2", "--parallel", "fsdp", "--gpt-ckpt", of_four, resave=True)]
    two += [{"stage": "tokenizer", "flags": tokenizer_flags(shapes, root, kind)} for kind in ("ddp", "fsdp")]
    train_all(root, {4: four, 2: two})
    return root


def train_all(root: Path, jobs: dict[int, list[dict]]) -> None:
    """Trains, on so many ranks each, the jobs of `parallel_runs`."""
    plan = root / "plan.json"
    plan.write_text(json.dumps([{"ranks": ranks, "jobs": some} for ranks, some in jobs.items()]))
    program = [sys.executable, "tests/autoregressive/train/parallel_runs.py", str(plan)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-6000:]


def tokenizer_flags(shapes: Path, root: Path, kind: str) -> list[str]:
    flags = f"--data-path {shapes}/train/t2i.jsonl --results-dir {root}/tokenizer-{kind} --parallel {kind}"
    flags += " --vq-model VQ-8-small --image-size 24 --no-augment --cache-images --global-batch-size 4"
    flags += " --num-workers 0 --device cpu --lr 1e-4 --perceptual-weight 0 --mixed-precision none --steps 3"
    flags += " --disc-weight 0.5 --disc-start 1 --ema --optimizer muon --quantize-after 1 --log-every 1"
    flags += " --max-grad-norm 0"
    return flags.split()


def content_of(folder: Path, name: str = "0000003.pt") -> dict:
    return load_checkpoint(folder / "checkpoints" / name)


@pytest.mark.parametrize("stage", OPTIMIZERS)
def test_sharded_weights_train_as_whole_ones(stage, runs):
    whole, sharded = (runs / f"{stage}-{kind}" for kind in ("ddp", "fsdp"))
    lines = list(zip(read_metrics(whole), read_metrics(sharded), strict=True))
    assert len(lines) == STEPS and len({line["loss"] for line, _ in lines}) > 6
    for name in ("loss", "grad_norm"):
        assert all(abs(a[name] - b[name]) <= 1e-5 * abs(a[name]) for a, b in lines), name
    whole, sharded = (content_of(folder, f"{STEPS:07d}.pt") for folder in (whole, sharded))
    for part in {"model", "ema"} & whole.keys():
        assert whole[part].keys() == sharded[part].keys()
        for name, weight in whole[part].items():
            assert torch.equal(weight, sharded[part][name]), name


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stage", OPTIMIZERS)
def test_fifty_steps_sharded_are_those_of_whole_weights(stage, optimizer, shapes, train_flags, tmp_path):
    """On one, two and four ranks, averages too.

    Four gradients add up to another rounding in another order, which Muon enlarges: there the measure is DDP
    with other buckets, held against itself.
    """
    kinds = {1: ["ddp", "fsdp"], 2: ["ddp", "fsdp"], 4: ["ddp", "ddp-small", "fsdp", "hsdp --shard-size 2"]}
    flags = [*stage_flags(stage, shapes, train_flags), "--optimizer", optimizer, "--ema-decay", "0.9"]
    flags += ["--max-steps", "50", "--epochs", "99", "--ckpt-every", "50", "--no-epoch-save"]
    flags += ["--checkpoint", "file", "--cache-codes"]
    flags += ["--center-crop"] if stage == "editing" else []

    def folder(ranks: int, kind: str) -> Path:
        return tmp_path / f"{ranks}-{kind.split()[0]}"

    def job(ranks: int, kind: str) -> dict:
        words = [*flags, "--parallel", *kind.removesuffix("-small").split()]
        words += ["--results-dir", str(folder(ranks, kind))]
        return {"stage": stage, "flags": words, "small_buckets": kind.endswith("-small")}

    train_all(tmp_path, {ranks: [job(ranks, kind) for kind in some] for ranks, some in kinds.items()})
    apart = {}
    for ranks, (whole, *others) in kinds.items():
        lines, weights = read_metrics(folder(ranks, whole)), content_of(folder(ranks, whole), "0000050.pt")
        assert len(lines) == 50
        for kind in others:
            there = read_metrics(folder(ranks, kind))
            pairs = zip(lines, there, strict=True)
            loss = max(abs(a["loss"] - b["loss"]) / abs(a["loss"]) for a, b in pairs)
            content = content_of(folder(ranks, kind), "0000050.pt")
            most = max(
                (weights[part][name] - weight).abs().max().item()
                for part in ("model", "ema")
                for name, weight in content[part].items()
            )
            apart[ranks, kind] = loss, most
    print(f"\n{stage}, {optimizer}: losses and weights apart by at most {apart}")
    for (ranks, _), (loss, most) in apart.items():
        by_order, weights_by_order = apart[4, "ddp-small"] if ranks == 4 else (0, 0)
        assert loss <= max(1e-5, 10 * by_order) and most <= max(1e-4, 10 * weights_by_order), apart


def test_averages_of_eight_bits_are_the_same_on_any_number_of_ranks(runs):
    whole, sharded = (content_of(runs / f"coded-{kind}") for kind in ("ddp", "fsdp"))
    saved, resumed = content_of(runs / "coded-four", SAVED), content_of(runs / "coded-on2")
    codes = [n for n, entry in whole["optimizer"]["state"].items() if entry["exp_avg"].dtype == torch.uint8]
    assert len(codes) > 4
    for key in ("model", "optimizer"):
        assert same(whole[key], sharded[key]) and same(saved[key], resumed[key]), key


def test_sharded_adapters_train_as_whole_ones_and_go_on_on_one_rank(
    runs, shapes, train_flags, gpt_ckpts, tmp_path
):
    flags = [
        *stage_flags("editing", shapes, train_flags),
        *ADAPTER,
        "--init-gpt-ckpt",
        str(gpt_ckpts["edit"]),
    ]
    one = run_stage("editing", flags, tmp_path / "one")
    saved = str(runs / "lora-fsdp" / "checkpoints" / SAVED)
    run_stage("editing", [*flags, "--gpt-ckpt", saved], tmp_path / "again")
    lines = read_metrics(tmp_path / "one")
    others = [("lora-ddp", 0), ("lora-fsdp", 0), ("lora-again", 3), (tmp_path / "again", 3)]
    for folder, start in others:
        for a, b in zip(lines[start:], read_metrics(runs / folder), strict=True):
            assert abs(a["loss"] - b["loss"]) <= 1e-5 * abs(a["loss"]), folder
    for content in (
        content_of(runs / "lora-ddp", "0000005.pt"),
        content_of(runs / "lora-fsdp", "0000005.dcp"),
    ):
        for part in ("model", "ema"):
            assert content[part].keys() == one[part].keys()
            for name, weight in one[part].items():
                torch.testing.assert_close(content[part][name], weight, atol=2e-5, rtol=1e-4)


def test_groups_of_ranks_and_recomputed_blocks_train_as_one_process(runs, shapes, train_flags, tmp_path):
    one = run_stage("t2i", [*stage_flags("t2i", shapes, train_flags), "--max-steps", "3"], tmp_path)
    for a, b in zip(read_metrics(tmp_path), read_metrics(runs / "hsdp"), strict=True):
        assert abs(a["loss"] - b["loss"]) <= 1e-5 * abs(a["loss"])
    for name, weight in content_of(runs / "hsdp")["model"].items():
        torch.testing.assert_close(one["model"][name], weight, atol=2e-5, rtol=1e-4)


def test_a_folder_resumes_on_any_number_of_ranks(runs, shapes, train_flags, tmp_path, monkeypatch):
    """Four ranks wrote it; what four, two and one have after reading it is what it holds, bit for bit."""
    saved = content_of(runs / "four", SAVED)
    assert saved["optimizer"]["members"][1]["state"][0]["momentum_buffer"].any() and saved["steps"] == 3
    one = _resume_on_one(runs / "four" / "checkpoints" / SAVED, shapes, train_flags, tmp_path, monkeypatch)
    for content in (content_of(runs / "on4"), content_of(runs / "on2"), content_of(runs / "import"), one):
        for key in ("model", "ema", "optimizer", "sampler", "steps", "ema_updates"):
            assert same(saved[key], content[key]), key
    assert same(saved["rng"], content_of(runs / "on4")["rng"])
    assert (runs / "four" / "previews" / "0000003.png").is_file()


def _resume_on_one(saved, shapes, train_flags, tmp_path, monkeypatch) -> dict:
    states, fit = [], stages.fit
    monkeypatch.setattr(stages, "fit", lambda *a, **k: states.append(fit(*a, **k)))
    flags = [*stage_flags("t2i", shapes, train_flags), "--optimizer", "muon", "--ema-decay", "0.9"]
    flags += ["--max-steps", "3", "--gpt-ckpt", str(saved), "--results-dir", str(tmp_path)]
    config = parse(T2IConfig, flags)
    stages.train_t2i(config, ONE_RANK)
    states[0].checkpoints = Checkpoints(str(tmp_path), 0)
    save(states[0], config, ONE_RANK)
    return content_of(tmp_path)


def test_a_sharded_tokenizer_trains_as_a_whole_one(runs):
    whole, sharded = runs / "tokenizer-ddp", runs / "tokenizer-fsdp"
    for a, b in zip(read_metrics(whole), read_metrics(sharded), strict=True):
        assert abs(a["loss"] - b["loss"]) <= 1e-5 * abs(a["loss"])
    whole, sharded = content_of(whole), content_of(sharded, SAVED)
    for part in ("model", "ema", "discriminator"):
        for name, weight in whole[part].items():
            torch.testing.assert_close(weight, sharded[part][name], atol=1e-4, rtol=1e-3)
    assert (runs / "tokenizer-fsdp" / "previews" / "0000003.png").is_file()


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_sharded_compiled_blocks_train_on_packed_rows_of_a_cpu(compiled, tmp_path):
    """What `test_gpu.py` asks of a GPU."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        sharded = train_packed(torch.device("cpu"), sharded=True, compiled=compiled)
    finally:
        dist.destroy_process_group()
    plain = train_packed(torch.device("cpu"), sharded=False, compiled=False)
    assert len(set(plain)) == len(plain) and sharded == pytest.approx(plain, rel=0.02)


def test_groups_must_divide_the_ranks_and_belong_to_hsdp():
    flags = ["--data-path", "x", "--vq-ckpt", "x", "--shard-size", "2"]
    with pytest.raises(UserError, match="--shard-size goes with --parallel hsdp, not ddp"):
        parse(T2IConfig, flags)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_table_that_no_rank_count_divides_has_its_blocks_of_eight_bits(rank):
    """81 cells on two ranks: split along the last dimension, a rank had a part of a block."""
    dist.init_process_group("fake", rank=rank, world_size=2, store=FakeStore())
    try:
        network = nn.Linear(256, 64)
        network.table = nn.Parameter(torch.randn(1, 81, 256))
        ranks = Distributed(rank, 2, rank, torch.device("cpu"))
        parallel(network, ranks, sharding_of("fsdp", None, "none", ranks), Parts([], []))
        optimizers = build_optimizer(network, "adamw8bit", lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95))
        for weight in network.parameters():
            weight.grad = torch.ones_like(weight)
        optimizers.step(torch.amp.GradScaler("cpu", enabled=False))
        kept = optimizers.members[0].state[network.table]
        assert kept["exp_avg"].shape == (1, 81, 256) and kept["exp_avg_scale"].shape == (1, 81, 1)
        assert kept["exp_avg_scale"].to_local().shape[1:] == (81, 1)
    finally:
        dist.destroy_process_group()
