"""The rehearsal of the published commands with a tiny model: all its steps, and checks that can fail."""

from __future__ import annotations

import importlib
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_program
from PIL import Image
from test_published_commands import STAGE_1, STAGE_2, STAGE_512, flags_of

from autoregressive.train.config import EditingConfig
from runtime.checkpoint import manifest_path
from runtime.config import parse

FLAGS = ["--gpt-model", "R-GPT-tiny", "--image-size", "32"]
PUBLISHED = {"stage1_256": STAGE_1, "stage2_256": STAGE_2, "stage2_512": STAGE_512}
MAY_DIFFER = {"--results-dir", "--global-batch-size", "--val-global-batch-size", "--validate_every",
              "--early-stop", "--image-size", "--gpt-model", "--init-gpt-ckpt"}  # fmt: skip
MAY_COME = {"--activation-checkpointing", "--num-workers", "--log-every", "--mixed-precision", "--max-steps"}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rehearsal")
    run_program("scripts/rehearse_published.py", "--work-dir", folder, *FLAGS)
    return folder


def records_of(work: Path) -> dict[str, dict]:
    return {r["stage"]: r for r in json.loads((work / "rehearsal.json").read_text())["commands"]}


@pytest.mark.slow
def test_all_three_commands_pass_and_leave_no_checkpoint(work):
    records = records_of(work)
    assert list(records) == list(PUBLISHED)
    for record in records.values():
        assert len(record["checks"]) >= 13 and all(check["passed"] for check in record["checks"])
        assert record["seconds"] > 0 and record["memory"] > 2e8 and record["disk"] > 9e8
    names = [check["name"] for check in records["stage2_512"]["checks"]]
    assert sum("outside its region" in name for name in names) == 2
    left = {path.name for path in work.rglob("*.pt")}
    assert left == {"vq_ds16_t2i.pt", "t2i_tiny_stage1_256.pt", "ViT-B-32.pt"}


@pytest.mark.slow
@pytest.mark.parametrize("stage", PUBLISHED)
def test_the_commands_are_the_published_ones(stage, work):
    words = shlex.split(records_of(work)[stage]["command"])
    assert words[0] == "torchrun" and "--nproc_per_node=1" in words
    program = next(i for i, word in enumerate(words) if word.endswith(".py"))
    ran = {flag: values for flag, *values in flags_of(shlex.join(words[program + 1 :]))}
    published = {flag: values for flag, *values in flags_of(PUBLISHED[stage])}
    assert published.keys() <= ran.keys()
    assert {flag for flag in published if published[flag] != ran[flag]} <= MAY_DIFFER
    assert ran.keys() - published.keys() <= MAY_COME


@pytest.mark.slow
def test_a_rehearsal_goes_on_after_the_last_checkpoint_that_is_there(work, tmp_path):
    rehearse = importlib.import_module("scripts.rehearse.run")
    shutil.copy(work / "rehearsal.json", tmp_path)
    content = json.loads((work / "rehearsal.json").read_text())
    settings = content["settings"] | {"work_dir": str(tmp_path)}
    (tmp_path / "rehearsal.json").write_text(json.dumps(content | {"settings": settings}))
    assert rehearse.kept_records(rehearse.Rehearsal(**settings)) == []
    (tmp_path / "NEP_256.pt").touch()
    assert len(rehearse.kept_records(rehearse.Rehearsal(**settings))) == 2
    other = rehearse.Rehearsal(**settings | {"gpt_model": "R-GPT-mini"})
    assert rehearse.kept_records(other) == [] and not (tmp_path / "NEP_256.pt").exists()


@pytest.mark.slow
def test_little_memory_passes_and_leaves_no_checkpoint(tmp_path):
    words = ["--work-dir", tmp_path, *FLAGS, "--low-memory", "lora", "adamw8bit"]
    run_program("scripts/rehearse_published.py", *words)
    records = records_of(tmp_path)
    assert list(records) == ["lora", "adamw8bit"]
    for record in records.values():
        assert len(record["checks"]) >= 11 and all(check["passed"] for check in record["checks"])
    assert {path.name for path in tmp_path.rglob("*.pt")} == {"vq_ds16_t2i.pt", "t2i_tiny_stage1_256.pt"}


@pytest.mark.parametrize("recipe", ["lora", "adamw8bit"])
def test_little_memory_is_stage_2_with_more_flags(recipe):
    config = importlib.import_module("scripts.rehearse.config")
    rehearsal = config.Rehearsal(low_memory=[recipe])
    _, *words = rehearsal.command(recipe)
    ran = {flag: values for flag, *values in flags_of(shlex.join(words))}
    published = {flag: values for flag, *values in flags_of(STAGE_2)}
    own = {flag for flag, *_ in flags_of(config.LOW_MEMORY[recipe])}
    assert {flag for flag in published if published[flag] != ran.get(flag)} <= MAY_DIFFER
    assert ran.keys() - published.keys() - own <= MAY_COME and own <= ran.keys()
    assert ran["--max-steps"] == ["3"] and ran["--init-gpt-ckpt"] == [
        "pretrained_models/t2i_XL_stage1_256.pt"
    ]
    assert rehearsal.stages == [recipe] and parse(EditingConfig, words).image_size == 256


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("layers.0.attention.wo.lora_B.default.weight", 0.5, set()),
        ("layers.0.attention.wo.lora_B.default.weight", 0.0, {"every layer's part was trained"}),
        ("mask_embedding", float("nan"), {"weights are finite"}),
        ("norm.weight", 0.5, {"the adapter and its tables alone"}),
    ],
)
def test_a_spoiled_adapter_fails_its_checks(name, value, expected):
    checks_module = importlib.import_module("scripts.rehearse.checks")
    state = {
        f"layers.{layer}.attention.wo.lora_{part}.default.weight": torch.ones(2, 2)
        for layer in (0, 1)
        for part in "AB"
    }
    checks = checks_module.Checks()
    checks_module._check_adapter(checks, state | {name: torch.full((2, 2), value)})
    assert len(checks.results) == 3 and {check["name"] for check in checks.failed} == expected


def spoil_nothing(content: dict) -> None:
    pass


def spoil_name(content: dict) -> None:
    content["model"]["mystery.weight"] = content["model"].pop("norm.weight")


def spoil_value(content: dict) -> None:
    content["model"]["norm.weight"] = content["model"]["norm.weight"] * float("nan")


def spoil_start(content: dict) -> None:
    content["model"]["layers.0.attention.wo.weight"] = torch.randn(64, 64) * 0.02


def spoil_table(content: dict) -> None:
    content["model"]["target_aware_pos_embed_postfix"] = torch.zeros(1, 4, 64)


def spoil_args(content: dict) -> None:
    del content["args"]


def spoil_loss(content: dict) -> None:
    content["loss"] = None  # as metrics.jsonl has a loss that is not finite


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (spoil_loss, {"size of chance"}),
        (spoil_nothing, set()),
        (spoil_name, {"named and shaped", "started as"}),
        (spoil_value, {"finite", "started as"}),
        (spoil_start, {"started as"}),
        (spoil_table, {"named and shaped", "position table"}),
        (spoil_args, {"published keys", "checkpoint"}),
    ],
)
def test_a_spoiled_checkpoint_fails_its_checks(spoil, expected, tmp_path):
    checks_module = importlib.import_module("scripts.rehearse.checks")
    shapes = checks_module.expected_shapes("R-GPT-tiny", 64, False)
    start = {name: torch.full(shape, 0.5) for name, shape in shapes.items()}
    torch.save({"model": {n: t for n, t in start.items() if "target_aware" not in n}}, tmp_path / "start.pt")
    training = checks_module.Training(
        results=tmp_path / "run",
        gpt_model="R-GPT-tiny",
        image_size=64,
        mask_in_context=False,
        steps=2,
        lr=1e-4,
        started_from=tmp_path / "start.pt",
    )
    content = {
        "model": {name: tensor + 1e-4 for name, tensor in start.items()},
        "optimizer": {"state": dict.fromkeys(range(len(shapes) - 1))},
        "steps": 2,
        "args": {"gpt_model": "R-GPT-tiny"},
    }
    spoil(content)
    losses = [{"step": step, "loss": content.pop("loss", 9.7)} for step in (1, 2)]
    training.checkpoint.parent.mkdir(parents=True)
    torch.save(content, training.checkpoint)
    manifest_path(training.checkpoint).touch()
    (training.results / "metrics.jsonl").write_text("\n".join(map(json.dumps, losses)))
    checks = checks_module.Checks()
    checks_module.check_training(checks, training, shapes)
    failed = [check["name"] for check in checks.failed]
    assert len(failed) == len(expected) and all(any(e in name for name in failed) for e in expected), failed


def test_a_pixel_changed_outside_the_region_is_seen(tmp_path):
    compare = importlib.import_module("scripts.rehearse.checks").compare_outside
    source = np.full((64, 64, 3), 100, np.uint8)
    alpha = np.full((64, 64), 255, np.uint8)
    alpha[:16, :16] = 0  # the first cell of 4x4
    edited = source.copy()
    edited[3, 3] = 7
    paths = [tmp_path / f"{name}.png" for name in ("edited", "source", "mask")]
    pictures = [edited, source, np.dstack([source, alpha])]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    assert compare(*paths, 4) == (True, True)
    edited[60, 60] = 99
    Image.fromarray(edited).save(paths[0])
    assert compare(*paths, 4) == (False, True)
    Image.fromarray(source).save(paths[0])
    assert compare(*paths, 4) == (True, False)
