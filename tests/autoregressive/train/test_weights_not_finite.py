"""A training whose weights stop being numbers ends with an error and leaves every checkpoint as it was."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_program
from PIL import Image

from autoregressive.models.weights import load_transformer
from autoregressive.train import train_editing, train_t2i
from runtime.checkpoint import load_checkpoint, require_whole, save_checkpoint
from runtime.errors import run_command
from runtime.optim import Optimizers
from runtime.training.checkpoints import require_finite
from runtime.training.ema import AveragedWeights
from tokenizer.tokenizer_image import vq_train
from tokenizer.tokenizer_image.vq_model import load_vq_model

PROGRAMS = {"t2i": train_t2i, "editing": train_editing, "tokenizer": vq_train}


@pytest.fixture
def flags_of(shapes, train_flags, tmp_path):
    def flags(program: str) -> list[str]:
        if program != "tokenizer":
            marks = ["--mask_in_context"] if program == "editing" else []
            return [*train_flags, "--data-path", str(shapes / "train" / f"{program}.jsonl"), *marks]
        (tmp_path / "images").mkdir()
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((32, 32)).save(tmp_path / "images" / f"{i}.png")
        words = "--vq-model VQ-8-small --image-size 32 --global-batch-size 4 --num-workers 0 --device cpu"
        words += " --perceptual-weight 0 --mixed-precision none --disc-start 0 --no-augment"
        return [*words.split(), "--data-path", str(tmp_path / "images")]

    return flags


def run(monkeypatch, program: str, *flags: object) -> int:
    """The exit status of the program, run in this process."""
    monkeypatch.setattr(sys, "argv", [program, *map(str, flags)])
    try:
        run_command(PROGRAMS[program].main)
    except SystemExit as end:
        return end.code
    return 0


def files_of(results: Path) -> dict[str, str]:
    folder = results / "checkpoints"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def spoil(weight: torch.Tensor, value: float) -> None:
    weight[(0,) * weight.dim()] = value


def ruin(monkeypatch, part: str, value: float) -> None:
    """Lets the next step leave `value` in one weight of the model, its average or its discriminator."""

    def after(function, parameter_of, of_which):
        seen = []

        def ruined(first, *rest, **options):
            result = function(first, *rest, **options)
            seen.extend([] if first in seen else [first])
            if seen.index(first) == of_which:
                spoil(parameter_of(first).data, value)
            return result

        return ruined

    if part == "ema":
        update = after(AveragedWeights.update_parameters, lambda own: next(own.parameters()), 0)
        monkeypatch.setattr(AveragedWeights, "update_parameters", update)
    else:
        steps = after(
            Optimizers.step, lambda own: own.param_groups[0]["params"][0], int(part == "discriminator")
        )
        monkeypatch.setattr(Optimizers, "step", steps)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("program", "part"),
    [
        *((program, part) for program in ("t2i", "editing") for part in ("model", "ema")),
        *(("tokenizer", part) for part in ("model", "ema", "discriminator")),
    ],
)
def test_a_ruined_training_ends_with_an_error_and_saves_nothing(
    program, part, value, flags_of, tmp_path, monkeypatch, capfd
):
    steps = "--steps" if program == "tokenizer" else "--max-steps"
    average = ["--ema"] if program == "tokenizer" else ["--ema-decay", "0.5"]
    results = tmp_path / "run"
    flags = [*flags_of(program), "--results-dir", results, "--auto-resume", "--ckpt-every", "1", *average]
    flags += ["--max-checkpoints", "1"]  # the one before is not deleted for one that never comes
    assert run(monkeypatch, program, *flags, steps, 1) == 0
    before = files_of(results)
    assert set(before) == {"0000001.pt", "0000001.pt.sha256"}
    with monkeypatch.context() as patch:
        ruin(patch, part, value)
        assert run(patch, program, *flags, steps, 3) == 2
    told = capfd.readouterr().err
    assert f"error: {results}/checkpoints/0000002.pt is not written: the {part}'s " in told
    assert files_of(results) == before
    path = results / "checkpoints" / "0000001.pt"
    require_whole(path, needs_manifest=True)
    require_finite(load_checkpoint(path), path)
    (load_vq_model if program == "tokenizer" else load_transformer)(path)
    assert run(monkeypatch, program, *flags, steps, 3) == 0  # from there, as the message says
    assert set(files_of(results)) == {"0000003.pt", "0000003.pt.sha256"}


@pytest.mark.parametrize(("program", "ranks"), [("t2i", 1), ("editing", 2), ("tokenizer", 2)])
def test_a_training_from_ruined_weights_ends_too(
    program, ranks, flags_of, vq_ckpt, gpt_ckpts, tmp_path, monkeypatch
):
    """Also where all steps are skipped, on all ranks: nobody waits for the one that ends."""
    flags = [*flags_of(program), "--results-dir", tmp_path / "run"]
    if program == "tokenizer":
        assert run(monkeypatch, program, *flags_of_first(flags, tmp_path), "--steps", 1) == 0
        content = load_checkpoint(tmp_path / "first" / "checkpoints" / "0000001.pt")
        flags += ["--finetune", "--steps", 1, "--vq-ckpt", tmp_path / "ruined.pt"]
    else:
        content = load_checkpoint(gpt_ckpts["t2i" if program == "t2i" else "edit"])
        flags += ["--max-steps", 1, "--init-gpt-ckpt", tmp_path / "ruined.pt"]
    spoil(next(iter(content["model"].values())), torch.inf)
    save_checkpoint(tmp_path / "ruined.pt", content)
    name = Path(PROGRAMS[program].__file__)
    done = run_program(name, *flags, ranks=ranks, check=False)
    assert done.returncode != 0 and "0000001.pt is not written: the model's" in done.stderr
    assert not list((tmp_path / "run").rglob("*.pt*"))


def flags_of_first(flags: list, tmp_path: Path) -> list:
    return [tmp_path / "first" if flag == tmp_path / "run" else flag for flag in flags]
