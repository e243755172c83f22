"""Training: one batch overfits, a stopped run goes on exactly, ranks change nothing, bad samples count."""

from __future__ import annotations

import inspect
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import read_metrics, run_program
from tiny_gpt import C, N, tiny

from autoregressive.models.layers import recompute_every
from autoregressive.models.loss import SupervisedLoss
from autoregressive.sequence.orders import edit_orders, random_orders, region_orders
from autoregressive.train.config import EditingConfig, T2IConfig
from autoregressive.train.inputs import Encoders, editing_inputs, t2i_inputs
from autoregressive.train.stages import train_editing, train_t2i
from dataset.batches import EditBatch, T2IBatch
from language.t5 import T5Encoder
from language.text_features import TextFeatures, save_text_features
from runtime.checkpoint import load_checkpoint, save_checkpoint
from runtime.config import parse
from runtime.distributed import ONE_RANK, distributed
from runtime.errors import UserError
from runtime.logging import WandbRun
from runtime.training.resume import resume_point

STAGES = ["t2i", "editing"]


def run_stage(stage: str, flags: list, results, device: str = "cpu") -> dict:
    """Trains in this process; returns the newest checkpoint."""
    config_class, train = {"t2i": (T2IConfig, train_t2i), "editing": (EditingConfig, train_editing)}[stage]
    config = parse(config_class, [*map(str, flags), "--results-dir", str(results)])
    with distributed(device) as ranks:
        train(config, ranks)
    return load_checkpoint(sorted((results / "checkpoints").glob("*.pt"))[-1])


def stage_flags(stage: str, shapes, train_flags) -> list[str]:
    flags = [*train_flags, "--data-path", str(shapes / "train" / f"{stage}.jsonl")]
    return flags + (["--mask_in_context"] if stage == "editing" else [])


def same(a, b) -> bool:
    """Bit for bit, through nested dicts and lists."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("stage", STAGES)
def test_one_batch_overfits(stage, shapes, train_flags, tmp_path):
    lines = (shapes / "train" / f"{stage}.jsonl").read_text().splitlines()[:4]
    (shapes / "train" / f"four_{stage}.jsonl").write_text("\n".join(lines))
    flags = [*train_flags, "--data-path", shapes / "train" / f"four_{stage}.jsonl", "--cache-codes"]
    flags += ["--max-steps", "200", "--epochs", "1000", "--lr-scheduler", "cosine", "--class-dropout-p", "0"]
    flags += ["--optimizer", "muon", "--lr", "3e-3", "--muon-lr", "0.01", "--weight-decay", "0"]
    flags += ["--mask_in_context", "--center-crop"] if stage == "editing" else []
    run_stage(stage, flags, tmp_path)
    assert read_metrics(tmp_path)[-1]["loss"] < 0.05


@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["--optimizer", "muon", "--ema-decay", "0.9", "--dropout-p", "0.1"],
        ["--optimizer", "adamw8bit", "--weight-decay", "0.1"],
    ],
)
@pytest.mark.parametrize("stage", STAGES)
def test_twenty_steps_are_ten_and_a_resume_and_ten(stage, extra, shapes, train_flags, tmp_path):
    flags = stage_flags(stage, shapes, train_flags) + extra
    flags += ["--max-steps", "20", "--ckpt-every", "10", "--lr-scheduler", "cosine"]
    whole = run_stage(stage, flags, tmp_path / "whole")
    half = tmp_path / "whole" / "checkpoints" / "0000010.pt"
    torch.manual_seed(123)  # whatever the state of the generator, the checkpoint's counts
    resumed = run_stage(stage, [*flags, "--gpt-ckpt", half], tmp_path / "resumed")
    for key in ("model", "optimizer", "sampler", "rng", "steps", *(["ema"] if "ema" in whole else [])):
        assert same(whole[key], resumed[key]), key
    losses = [line["loss"] for line in read_metrics(tmp_path / "whole")]
    assert [line["loss"] for line in read_metrics(tmp_path / "resumed")] == losses[10:]
    assert len(set(losses)) == 20


@pytest.mark.slow
def test_four_ranks_go_on_exactly(shapes, train_flags, tmp_path):
    flags = [*stage_flags("t2i", shapes, train_flags), "--max-steps", "6", "--ckpt-every", "3"]
    flags += ["--dropout-p", "0.1"]
    program = "autoregressive/train/train_t2i.py"
    run_program(program, *flags, "--results-dir", tmp_path / "whole", ranks=4)
    half = tmp_path / "whole" / "checkpoints" / "0000003.pt"
    run_program(program, *flags, "--gpt-ckpt", half, "--results-dir", tmp_path / "resumed", ranks=4)
    whole, resumed = (
        load_checkpoint(tmp_path / name / "checkpoints" / "0000006.pt") for name in ("whole", "resumed")
    )
    for key in ("model", "optimizer", "sampler", "rng"):
        assert same(whole[key], resumed[key]), key


def test_config_yaml_keeps_the_flags_of_a_run_that_went_on(shapes, train_flags, tmp_path):
    flags = [*stage_flags("t2i", shapes, train_flags), "--auto-resume", "--max-steps"]
    run_stage("t2i", [*flags, "2"], tmp_path / "run")
    assert run_stage("t2i", [*flags, "4"], tmp_path / "run")["steps"] == 4
    noted = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert noted["auto_resume"] is True and noted["gpt_ckpt"] is None and noted["max_steps"] == 4
    assert len(read_metrics(tmp_path / "run")) == 4
    again = run_stage("t2i", ["--config", tmp_path / "run" / "config.yaml"], tmp_path / "again")
    assert same(again["model"], run_stage("t2i", [*flags, "4"], tmp_path / "whole")["model"])


def test_a_run_in_a_folder_whose_name_is_not_utf8_goes_on(shapes, train_flags, tmp_path):
    results = tmp_path / os.fsdecode(b"gr\xf6")
    flags = [*stage_flags("t2i", shapes, train_flags), "--auto-resume"]
    run_stage("t2i", [*flags, "--max-steps", "2"], results)
    again = run_stage("t2i", ["--config", results / "config.yaml", "--max-steps", "4"], results)
    assert again["steps"] == 4 and len(read_metrics(results)) == 4


@pytest.mark.parametrize(("optimizer", "stage"), [("sgd", "t2i"), ("adamw", "editing")])
def test_two_ranks_train_as_one(optimizer, stage, shapes, train_flags, tmp_path):
    flags = stage_flags(stage, shapes, train_flags)
    flags += ["--optimizer", optimizer, "--max-steps", "5", "--gradient-accumulation-steps", "2"]
    flags += ["--lr", "0.1" if optimizer == "sgd" else "1e-3"]
    one = run_stage(stage, flags, tmp_path / "one")
    program = f"autoregressive/train/train_{stage}.py"
    flags += ["--cache-codes"] if stage == "t2i" else []
    run_program(program, *flags, "--results-dir", tmp_path / "two", ranks=2)
    two = load_checkpoint(tmp_path / "two" / "checkpoints" / "0000005.pt")
    pairs = zip(read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two"), strict=True)
    assert all(abs(a["loss"] - b["loss"]) < 1e-6 * max(1, a["loss"]) for a, b in pairs)
    if optimizer == "sgd":
        for name, weight in one["model"].items():
            torch.testing.assert_close(weight, two["model"][name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("stage", STAGES)
def test_cached_codes_train_as_images(stage, shapes, train_flags, tmp_path):
    flags = stage_flags(stage, shapes, train_flags) + ["--max-steps", "3"]
    flags += ["--center-crop", "--mask-dilation", "2", "--mask-jitter", "3"] if stage == "editing" else []
    run_stage(stage, flags, tmp_path / "images")
    run_stage(stage, [*flags, "--cache-codes"], tmp_path / "codes")
    for a, b in zip(read_metrics(tmp_path / "images"), read_metrics(tmp_path / "codes"), strict=True):
        assert abs(a["loss"] - b["loss"]) < 1e-6


@pytest.mark.parametrize(
    "stage, extra",
    [
        *((stage, []) for stage in STAGES),
        ("editing", ["--supervise-marks"]),
        ("editing", ["--own-cell", "--edit-orders", "random", "spiral"]),
        ("t2i", ["--own-cell", "--region-share", "0.8", "--region-orders", "outside_in", "columns"]),
    ],
)
def test_packed_rows_train_as_padded_batches(stage, extra, shapes, train_flags, tmp_path):
    flags = stage_flags(stage, shapes, train_flags) + ["--max-steps", "3", "--class-dropout-p", "0.3", *extra]
    run_stage(stage, flags, tmp_path / "padded")
    run_stage(stage, [*flags, "--pack-rows", "on"], tmp_path / "packed")
    for a, b in zip(read_metrics(tmp_path / "padded"), read_metrics(tmp_path / "packed"), strict=True):
        assert abs(a["loss"] - b["loss"]) < 1e-5


FEATURES_ONLY = Encoders(None, None, C, 120)
NO_TEXT = TextFeatures(torch.zeros(1, C), torch.ones(1, dtype=torch.bool))


def orders_of(region_share: float, gpt_model: str = "R-GPT-tiny", more: Sequence[str] = ()) -> torch.Tensor:
    """(400, N) the orders in which stage 1 draws 400 samples, their seeds 0 to 399."""
    flags = ["--data-path", "x", "--vq-ckpt", "x", "--gpt-model", gpt_model]
    flags += ["--region-share", str(region_share), *more]
    cells, valid = torch.arange(N).expand(400, -1), torch.ones(400, 1, dtype=torch.bool)
    cpu = torch.device("cpu")
    make = t2i_inputs(tiny(gpt_model), FEATURES_ONLY, parse(T2IConfig, flags), cpu)
    batch = T2IBatch([NO_TEXT] * 400, list(range(400)), [""] * 400, [None] * 400, valid[:, 0], cells)
    return make(batch, 0)[0].targets


def test_the_region_share_of_stage_one_is_drawn_per_sample():
    none, half, all_edits = (orders_of(share) for share in (0, 0.5, 1))
    assert torch.equal(none, random_orders(list(range(400)), N))
    assert torch.equal(all_edits, region_orders(list(range(400)), N))
    as_edits = (half == all_edits).all(1)
    assert 160 < as_edits.sum() < 240 and torch.equal(half[~as_edits], none[~as_edits])
    assert torch.equal(orders_of(0, "GPT-tiny"), torch.arange(N).expand(400, -1))
    with pytest.raises(UserError, match="--region-share 1.5: must be a number between 0 and 1"):
        orders_of(1.5)
    with pytest.raises(UserError, match="GPT-tiny draws in raster order only"):
        orders_of(0.5, "GPT-tiny")


def test_stage_one_draws_the_kinds_of_region_orders_it_is_told():
    seeds = list(range(400))
    drawn = orders_of(1, more=["--region-orders", "spiral", "columns"])
    assert torch.equal(drawn, region_orders(seeds, N, ["spiral", "columns"]))
    with pytest.raises(UserError, match="--region-orders goes with --region-share"):
        orders_of(0, more=["--region-orders", "spiral"])


def test_stage_two_draws_the_kinds_of_orders_it_is_told():
    cells, valid = torch.arange(N).expand(40, -1), torch.ones(40, 1, dtype=torch.bool)
    empty, seeds = [""] * 40, list(range(40))
    masks = (cells + torch.arange(40)[:, None]) % 3 == 0
    batch = EditBatch([NO_TEXT] * 40, seeds, empty, [None] * 40, valid[:, 0], cells, cells, masks)
    for kinds in ([], ["random"], ["raster", "outside_in"]):
        flags = ["--data-path", "x", "--vq-ckpt", "x", "--gpt-model", "R-GPT-tiny", "--mask_in_context"]
        config = parse(EditingConfig, flags + (["--edit-orders", *kinds] if kinds else []))
        make = editing_inputs(tiny(mask_in_context=True), FEATURES_ONLY, config, torch.device("cpu"))
        layout = make(batch, 0)[0]
        wanted = edit_orders(seeds, masks, kinds or ["raster"])[:, : layout.num_predictions]
        assert torch.equal(layout.targets, wanted)


def test_an_editor_starts_from_a_model_with_own_cells(shapes, train_flags, tmp_path):
    flags = [*stage_flags("t2i", shapes, train_flags), "--max-steps", "2"]
    content = run_stage("t2i", [*flags, "--own-cell"], tmp_path / "stage1")
    assert content["model"]["own_cell_embedding"].any() and content["args"]["model_config"]["own_cell"]
    ckpt = str(tmp_path / "stage1" / "checkpoints" / "0000002.pt")
    flags = [*stage_flags("editing", shapes, train_flags), "--max-steps", "1", "--init-gpt-ckpt", ckpt]
    with pytest.raises(UserError, match="own_cell is True there and False here.*--own-cell"):
        run_stage("editing", flags, tmp_path / "refused")
    content = run_stage("editing", [*flags, "--own-cell"], tmp_path / "stage2")
    assert content["model"]["own_cell_embedding"].any()


def spoiled_list(shapes, name: str, **changes) -> str:
    """The editing list with one line changed (None deletes the key)."""
    lines = [json.loads(line) for line in (shapes / "train" / "editing.jsonl").read_text().splitlines()]
    lines[3] = {k: v for k, v in (lines[3] | changes).items() if v is not None}
    path = shapes / "train" / f"{name}.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


@pytest.mark.parametrize("cache", [[], ["--cache-codes", "--center-crop"]])
def test_a_bad_sample_is_counted_named_and_left_out(cache, shapes, train_flags, tmp_path, capfd):
    path = spoiled_list(shapes, "missing", edited_image="nowhere.png")
    flags = [*train_flags, "--data-path", path, "--max-steps", "12", *cache]
    content = run_stage("editing", [*flags, "--bad-sample-budget", "0.1"], tmp_path / "a")
    assert content["steps"] == 12
    assert "nowhere.png" in capfd.readouterr().err
    with pytest.raises(UserError, match="bad-sample-budget 0.01 of 24"):
        run_stage("editing", flags, tmp_path / "b")


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_a_gradient_that_is_not_finite_changes_nothing_and_ten_of_them_are_the_most(
    optimizer, shapes, train_flags, tmp_path, monkeypatch, capfd
):
    bad_steps, forward = {2}, SupervisedLoss.forward
    calls = iter(range(1, 1000))
    monkeypatch.setattr(
        SupervisedLoss,
        "forward",
        lambda *args: forward(*args) * (float("nan") if next(calls) in bad_steps else 1),
    )
    flags = stage_flags("t2i", shapes, train_flags) + ["--optimizer", optimizer, "--ckpt-every", "1"]
    flags += ["--weight-decay", "0.1", "--epochs", "9"]
    run_stage("t2i", [*flags, "--max-steps", "3", "--log-every", "3"], tmp_path)
    first, second, third = (
        load_checkpoint(tmp_path / "checkpoints" / f"{step:07d}.pt") for step in (1, 2, 3)
    )
    assert same(first["model"], second["model"]) and same(first["optimizer"], second["optimizer"])
    assert not same(second["model"], third["model"])
    assert [content["num_skipped"] for content in (first, second, third)] == [0, 1, 1]
    assert "step 2 skipped: the gradient norm is nan" in capfd.readouterr().err
    (line,) = read_metrics(tmp_path)
    assert line["loss"] > 0  # of the two steps that were taken
    bad_steps |= set(range(1000))
    with pytest.raises(UserError, match="11 steps had a gradient that is not finite"):
        run_stage("t2i", [*flags, "--max-steps", "20"], tmp_path / "broken")


def test_an_empty_mask_is_skipped_and_a_missing_one_trains_full_regeneration(
    shapes, train_flags, tmp_path, capfd
):
    from PIL import Image

    Image.new("L", (24, 24)).save(shapes / "train" / "empty.png")
    flags = [*train_flags, "--max-steps", "6", "--mask_in_context", "--bad-sample-budget", "0.1"]
    empty = spoiled_list(shapes, "empty_mask", mask_image="empty.png")
    run_stage("editing", [*flags, "--data-path", empty], tmp_path / "empty")
    assert "line 4" in (said := capfd.readouterr().err) and "marks no pixel" in said
    none = spoiled_list(shapes, "no_mask", mask_image="NONE")
    run_stage("editing", [*flags, "--data-path", none], tmp_path / "none")
    assert "left out" not in capfd.readouterr().err


def test_a_checkpoint_keeps_the_published_keys_and_is_pruned(shapes, train_flags, tmp_path):
    flags = [*stage_flags("editing", shapes, train_flags), "--max-steps", "5", "--ckpt-every", "2"]
    content = run_stage("editing", [*flags, "--max_checkpoints", "2"], tmp_path)
    assert {"model", "optimizer", "steps", "args"} <= content.keys() and content["steps"] == 5
    assert isinstance(content["args"], dict)
    kept = [p.name for p in sorted((tmp_path / "checkpoints").iterdir())]
    assert kept == ["0000004.pt", "0000004.pt.sha256", "0000005.pt", "0000005.pt.sha256"]


def test_a_run_does_not_mix_with_later_checkpoints_of_another(shapes, train_flags, tmp_path):
    flags = [*stage_flags("t2i", shapes, train_flags), "--ckpt-every", "2", "--max-steps", "4"]
    run_stage("t2i", flags, tmp_path)
    metrics = (tmp_path / "metrics.jsonl").read_text()
    for start, step in (([], 0), (["--gpt-ckpt", tmp_path / "checkpoints" / "0000002.pt"], 2)):
        with pytest.raises(UserError, match=rf"holds 0000004\.pt, and this run would start at step {step}"):
            run_stage("t2i", [*flags, *start], tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == metrics
    assert run_stage("t2i", [*flags, "--auto-resume"], tmp_path)["steps"] == 4


def test_a_restart_goes_on_with_a_run_of_its_own_launch_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    save_checkpoint(tmp_path / "checkpoints" / "0000004.pt", {"model": {}})
    for count in "012":
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        with pytest.raises(UserError, match="holds 0000004.pt"):
            resume_point(None, tmp_path, ONE_RANK)
    assert resume_point(None, tmp_path, ONE_RANK, saves_nothing=True) is None
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert resume_point(None, tmp_path / "new", ONE_RANK) is None
    newest = tmp_path / "new" / "checkpoints" / "0000002.pt"
    save_checkpoint(newest, {"model": {}})
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert resume_point(None, tmp_path / "new", ONE_RANK) == str(newest)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_in_a_long_preview_is_heard_before_the_next_batch(
    workers, shapes, train_flags, tmp_path, monkeypatch
):
    def preview(pipeline, dataset, config):
        def draw(step):
            for process in (*multiprocessing.active_children(), SimpleNamespace(pid=os.getpid())):
                os.kill(process.pid, signal.SIGTERM)
            time.sleep(2)  # longer than the loader's processes wait
            return tmp_path / "preview.png"

        return draw

    monkeypatch.setattr("runtime.stopping.WORKER_GRACE", 1)
    monkeypatch.setattr("autoregressive.train.stages.t2i_preview", preview)
    flags = [*stage_flags("t2i", shapes, train_flags), "--preview-every", "2", "--max-steps", "9"]
    with pytest.raises(SystemExit, match="143"):
        run_stage("t2i", [*flags, "--ckpt-every", "-1", "--num-workers", workers], tmp_path)
    assert [path.stem for path in (tmp_path / "checkpoints").glob("*.pt")] == ["0000002"]


@pytest.mark.parametrize(
    "flag", ["--log-every", "--gradient-accumulation-steps", "--global-batch-size", "--epochs"]
)
def test_counts_that_make_no_sense_are_refused(flag, shapes, train_flags):
    with pytest.raises(UserError, match=f"{flag} 0: must be at least 1"):
        parse(T2IConfig, [*stage_flags("t2i", shapes, train_flags), flag, "0"])


def test_words_that_nothing_can_encode_are_a_bad_sample(shapes, train_flags, tmp_path, capfd):
    np.save(tmp_path / "one.npy", np.ones((1, 3, 16), np.float32))
    lines = [json.loads(line) for line in (shapes / "train" / "t2i.jsonl").read_text().splitlines()]
    for line in lines[1:]:
        line["embedding_path"] = str(tmp_path / "one.npy")
    listing = shapes / "train" / "one_text_only.jsonl"
    listing.write_text("\n".join(map(json.dumps, lines)))
    flags = [*stage_flags("t2i", shapes, train_flags), "--data-path", listing, "--allow-outside-root"]
    at = flags.index("--t5-path")
    flags[at : at + 2] = ["--t5-feature-dim", "16"]
    epoch = len(lines) // 4
    run_stage("t2i", [*flags, "--max-steps", epoch, "--bad-sample-budget", "0.1"], tmp_path / "run")
    assert "line 1: has no text features, and no text encoder is loaded" in capfd.readouterr().err


def test_stage_one_files_start_stage_two_and_others_are_refused(shapes, train_flags, tmp_path):
    flags = [*stage_flags("t2i", shapes, train_flags), "--max-steps", "1"]
    run_stage("t2i", [*flags, "--codebook-init"], tmp_path / "one")
    ckpt = tmp_path / "one" / "checkpoints" / "0000001.pt"
    editing = [*stage_flags("editing", shapes, train_flags), "--max-steps", "1"]
    run_stage("editing", [*editing, "--init-gpt-ckpt", ckpt], tmp_path / "two")
    with pytest.raises(UserError, match="misshapen.*layers.0"):
        wider = [f if f != "R-GPT-tiny" else "R-GPT-mini" for f in editing]
        run_stage("editing", [*wider, "--init-gpt-ckpt", ckpt], tmp_path / "x")
    with pytest.raises(UserError, match="--codebook-init is for fresh weights"):
        run_stage("editing", [*editing, "--init-gpt-ckpt", ckpt, "--codebook-init"], tmp_path / "x")
    with pytest.raises(UserError, match="not a checkpoint"):
        run_stage("editing", [*editing, "--init-gpt-ckpt", __file__], tmp_path / "x")
    with pytest.raises(UserError, match="lacks optimizer"):
        weights = tmp_path / "weights.pt"
        save_checkpoint(weights, {"model": load_checkpoint(ckpt)["model"]})
        run_stage("t2i", [*flags, "--gpt-ckpt", weights], tmp_path / "x")


def test_a_run_that_goes_on_is_the_same_one_at_wandb(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    begun = []
    module = SimpleNamespace(
        login=lambda **given: bool(inspect.signature(wandb.login).bind(**given)) and False,
        init=lambda **given: begun.append(inspect.signature(wandb.init).bind(**given).kwargs),
    )
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for step in (0, 7, 0):
        WandbRun("nep", tmp_path, {"lr": 1}, step)
    names = [settings["id"] for settings in begun]
    assert names[0] == names[1] != names[2]
    assert {settings["resume"] for settings in begun} == {"allow"}
    assert {settings["mode"] for settings in begun} == {"offline"}


def test_previews_are_written(shapes, train_flags, tmp_path):
    for stage in STAGES:
        flags = [*stage_flags(stage, shapes, train_flags), "--max-steps", "1", "--preview-every", "1"]
        run_stage(stage, flags, tmp_path / stage)
        assert (tmp_path / stage / "previews" / "0000001.png").stat().st_size > 500


def test_a_batch_that_does_not_divide_is_an_error(shapes, train_flags, tmp_path):
    flags = [*stage_flags("t2i", shapes, train_flags), "--gradient-accumulation-steps", "3"]
    with pytest.raises(UserError, match="multiple of 3"):
        run_stage("t2i", flags, tmp_path)


def test_ready_made_text_features_train_as_the_strings_they_were_made_of(
    shapes, train_flags, t5_dir, tmp_path
):
    shutil.copytree(shapes / "train", tmp_path / "train")
    encoder = T5Encoder(t5_dir)
    lines = [json.loads(line) for line in (shapes / "train" / "t2i.jsonl").read_text().splitlines()]
    for i, line in enumerate(lines):
        save_text_features(tmp_path / "train" / f"{i}.npy", encoder.encode([line.pop("text")])[0])
        line["embedding_path"] = f"{i}.npy"
    (tmp_path / "train" / "features.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run_stage("t2i", [*stage_flags("t2i", shapes, train_flags), "--max-steps", "3"], tmp_path / "strings")
    flags = list(train_flags)
    at = flags.index("--t5-path")
    flags[at : at + 2] = ["--t5-feature-dim", "16"]
    flags += ["--data-path", tmp_path / "train" / "features.jsonl", "--max-steps", "3"]
    run_stage("t2i", flags, tmp_path / "features")
    for a, b in zip(read_metrics(tmp_path / "strings"), read_metrics(tmp_path / "features"), strict=True):
        assert abs(a["loss"] - b["loss"]) < 1e-5


def test_ready_made_text_features_of_the_wrong_width_are_named(shapes, train_flags, tmp_path):
    import numpy as np

    shutil.copytree(shapes / "train", tmp_path / "train")
    np.save(tmp_path / "train" / "wide.npy", np.zeros((1, 3, 20), np.float32))
    line = json.loads((tmp_path / "train" / "t2i.jsonl").read_text().splitlines()[0])
    line = {"image_path": line["image_path"], "embedding_path": "wide.npy"}
    (tmp_path / "train" / "wide.jsonl").write_text("\n".join([json.dumps(line)] * 4))
    flags = [*train_flags, "--data-path", str(tmp_path / "train" / "wide.jsonl"), "--max-steps", "1"]
    with pytest.raises(UserError, match="bad-sample-budget"):
        run_stage("t2i", [*flags, "--t5-feature-dim", "16"], tmp_path / "r")


@pytest.mark.parametrize("stage", STAGES)
def test_recomputed_activations_give_the_same_training(stage, shapes, train_flags, tmp_path):
    flags = [*stage_flags(stage, shapes, train_flags), "--max-steps", "3", "--dropout-p", "0.1"]
    kept = run_stage(stage, flags, tmp_path / "kept")
    for every in (1, 2):
        more = ["--activation-checkpointing", "--recompute-every", every]
        recomputed = run_stage(stage, [*flags, *more], tmp_path / f"recomputed{every}")
        assert same(kept["model"], recomputed["model"])


@pytest.mark.parametrize(("every", "wanted"), [(1, 6), (2, 3), (4, 2)])
def test_every_so_many_blocks_are_recomputed(every, wanted, monkeypatch):
    blocks = [_Kept(layer) for layer in range(6)]
    monkeypatch.setattr("autoregressive.models.layers.checkpoint", lambda block, *_, **__: "recomputed")
    run = recompute_every(every)
    assert sum(run(block, None) == "recomputed" for block in blocks) == wanted


class _Kept:
    """A block that says how it was run."""

    def __init__(self, layer: int) -> None:
        self.attention = SimpleNamespace(layer=layer)

    def __call__(self, *_) -> str:
        return "kept"


def test_previews_show_the_averaged_weights_and_leave_the_run_as_it_was(shapes, train_flags, tmp_path):
    flags = [*stage_flags("t2i", shapes, train_flags), "--max-steps", "2", "--ema-decay", "0.9"]
    plain = run_stage("t2i", flags, tmp_path / "plain")
    watched = run_stage("t2i", [*flags, "--preview-every", "1"], tmp_path / "watched")
    assert same(plain["model"], watched["model"]) and same(plain["ema"], watched["ema"])


def test_captions_longer_than_the_model_reads_lose_their_end(shapes, train_flags, tmp_path):
    flags = [*stage_flags("t2i", shapes, train_flags), "--max-steps", "1", "--cls-token-num", "4"]
    content = run_stage("t2i", flags, tmp_path / "a")
    assert content["model"]["cls_embedding.uncond_embedding"].shape[0] == 4
    with pytest.raises(UserError, match="--t5-feature-max-len 5 exceeds"):
        run_stage("t2i", [*flags, "--t5-feature-max-len", "5"], tmp_path / "b")


def test_a_resume_never_drops_the_averaged_weights_in_silence(shapes, train_flags, tmp_path):
    flags = [*stage_flags("t2i", shapes, train_flags), "--max-steps"]
    run_stage("t2i", [*flags, "1", "--ema-decay", "0.9"], tmp_path / "averaged")
    ckpt = tmp_path / "averaged" / "checkpoints" / "0000001.pt"
    with pytest.raises(UserError, match="0000001.pt holds averaged weights, which would be lost"):
        run_stage("t2i", [*flags, "2", "--gpt-ckpt", ckpt], tmp_path / "resumed")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("seeds", [(0, 5), (5, 0)])
def test_a_resume_with_another_seed_is_refused(stage, seeds, shapes, train_flags, tmp_path):
    """The order of the data follows the file's, the dropouts, coins and validations the flag's."""
    first, second = (["--global-seed", str(seed), "--auto-resume", "--max-steps"] for seed in seeds)
    flags = stage_flags(stage, shapes, train_flags)
    run_stage(stage, [*flags, *first, "1"], tmp_path)
    with pytest.raises(UserError, match=rf"0000001.pt was trained with --global-seed {seeds[0]}, and .* say"):
        run_stage(stage, [*flags, *second, "2"], tmp_path)
    assert run_stage(stage, [*flags, *first, "2"], tmp_path)["sampler"]["seed"] == seeds[0]


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_a_resume_takes_rates_and_decay_from_the_flags_and_says_so(
    optimizer, shapes, train_flags, tmp_path, capfd
):
    flags = [*stage_flags("t2i", shapes, train_flags), "--auto-resume", "--optimizer", optimizer]
    first = run_stage("t2i", [*flags, "--max-steps", "1", "--weight-decay", "0.1"], tmp_path)
    assert "other flags" not in capfd.readouterr().err
    changed = ["--lr", "1e-5", "--muon-lr", "1e-4", "--weight-decay", "0.2", "--beta2", "0.9"]
    second = run_stage("t2i", [*flags, "--max-steps", "2", *changed], tmp_path)
    told = capfd.readouterr().err
    assert "other flags hold: --" in told and "--lr 0.001 → 1e-05" in told and "--vq-" not in told
    before, after = (
        content["optimizer"].get("members", [content["optimizer"]]) for content in (first, second)
    )
    for old, new in zip(before, after, strict=True):
        rates = {group["lr"] for group in new["param_groups"]}
        assert rates == {1e-4} if "momentum" in new["param_groups"][0] and optimizer == "muon" else {1e-5}
        assert old["param_groups"][0]["lr"] not in rates
        if optimizer != "sgd":
            assert new["param_groups"][0]["weight_decay"] == 0.2
        if "betas" in new["param_groups"][0]:
            assert new["param_groups"][0]["betas"][1] == 0.9
        steps = [int(state["step"]) for state in new["state"].values() if "step" in state]
        assert all(step == 2 for step in steps)  # the moments and their counts are the file's


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--optimizer", "sgd"], "was trained with another optimizer"),
        (["--optimizer", "muon"], "was trained with another optimizer"),
        (["--ema-decay", "0.9"], "holds no averaged weights"),
        (["--global-batch-size", "8"], "0000001.pt stopped: global_batch_size was 4 and is now 8"),
        (["--gpt-model", "R-GPT-mini"], "does not fit this model: .* misshapen"),
    ],
)
def test_what_a_resume_has_twice_must_agree(changes, message, shapes, train_flags, tmp_path):
    flags = [*stage_flags("t2i", shapes, train_flags), "--auto-resume", "--max-steps"]
    run_stage("t2i", [*flags, "1"], tmp_path)
    with pytest.raises(UserError, match=message):
        run_stage("t2i", [*flags, "2", *changes], tmp_path)
    assert run_stage("t2i", [*flags, "2"], tmp_path)["steps"] == 2


def test_a_resume_with_other_data_of_the_same_size_says_so(shapes, train_flags, tmp_path, capfd):
    flags = [*stage_flags("t2i", shapes, train_flags), "--auto-resume", "--max-steps"]
    run_stage("t2i", [*flags, "1"], tmp_path)
    lines = (shapes / "train" / "t2i.jsonl").read_text().splitlines()
    (shapes / "train" / "backwards.jsonl").write_text("\n".join(lines[::-1]))
    accumulated = ["--gradient-accumulation-steps", "2", "--dropout-p", "0.1"]
    other = ["--data-path", shapes / "train" / "backwards.jsonl", *accumulated]
    assert run_stage("t2i", [*flags, "2", *other], tmp_path)["steps"] == 2
    told = capfd.readouterr().err
    assert "--data-path " in told and "backwards.jsonl" in told
    assert "--gradient-accumulation-steps 1 → 2" in told and "--dropout-p 0.0 → 0.1" in told
