"""Test 13: a setting means what it says, or is refused by name: numbers, config files, names, resumes."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from autoregressive.sample.flags import SampleT2I
from autoregressive.train.config import EditingConfig, T2IConfig
from autoregressive.train.stages import train_t2i
from dataset.shapes.flags import PrepareShapesConfig
from runtime.checkpoint import load_checkpoint
from runtime.config import parse
from runtime.distributed import ONE_RANK
from tests.battery.cases import Assets, Case, refused, same
from tests.battery.training import ROOT
from tokenizer.tokenizer_image.vq_config import VQTrainConfig

TRAIN = ("--vq-ckpt", "v.pt", "--data-path", "a.jsonl")
PROGRAMS = {
    "stage 1": (T2IConfig, TRAIN),
    "tokenizer": (VQTrainConfig, ("--data-path", "images")),
    "sampling": (SampleT2I, ("--vq-ckpt", "v.pt", "--gpt-ckpt", "g.pt")),
    "shapes": (PrepareShapesConfig, ("--output-dir", "x")),
}
NUMBERS = {
    "stage 1": (
        ("--warmup-steps", "-1"), ("--class-dropout-p", "2"), ("--max-steps", "0"), ("--lr", "nan"),
        ("--lr", "inf"), ("--lr", "1e30"), ("--dropout-p", "1.5"), ("--beta1", "1.5"),
        ("--ema-decay", "1.5"), ("--num-workers", "-1"), ("--image-size", "0"), ("--cls-token-num", "0"),
        ("--weight-decay", "nan"), ("--max-grad-norm", "-1"), ("--bad-sample-budget", "nan"),
        ("--pct-start", "5"), ("--final-div-factor", "0"), ("--peak-tflops", "0"),
        ("--global-seed", str(2**70)),
    ),
    "tokenizer": (("--lr", "nan"), ("--steps", "0"), ("--ema-decay", "1"), ("--global-seed", str(2**63))),
    "sampling": (("--cfg-scale", "nan"), ("--temperature", "-1"), ("--top-p", "0"), ("--seed", "-1")),
    "shapes": (("--seed", "-1"), ("--image-size", "0")),
}  # fmt: skip
KEPT = {
    "off is a word": ("pack_rows: off", "pack_rows", "off"),
    "on is a word": ("pack_rows: on", "pack_rows", "on"),
    "no is a name": ("wandb_project: no", "wandb_project", "no"),
    "010 is ten": ("global_seed: 010", "global_seed", 10),
    "010 is a name": ("wandb_project: 010", "wandb_project", "010"),
    "1e-4 is a number": ("lr: 1e-4", "lr", 1e-4),
    "a dash begins a value": ("wandb_project: --lr", "wandb_project", "--lr"),
}
REFUSED = {
    "no as a choice": ("mixed_precision: no", "mixed_precision 'no': choose from none, bf16, fp16"),
    "off as a boolean": ("compile: off", "compile 'off': write true or false"),
    "true as a choice": ("pack_rows: true", "pack_rows 'true': choose from auto, on, off"),
    "minutes as a number": ("global_seed: 1:30", "global_seed '1:30': must be a whole number"),
    "not a number": ("lr: .nan", "must be a number"),
    "a tag": ("lr: !!python/name:os.system", "without tags"),
    "a name twice": ("vq-ckpt: other.pt", "stands in the file twice"),
}
NAMES = {"an umlaut": "Größe".encode(), "not UTF-8": b"gr\xf6\xdfe", "a dash first": b"-\xff"}
CONFLICTS = {
    "another seed": ((), ("--global-seed", "5"), "0000001.pt was trained with --global-seed 0"),
    "averages dropped": (
        ("--ema-decay", "0.9"),
        (),
        "0000001.pt holds averaged weights, which would be lost",
    ),
    "averages missing": ((), ("--ema-decay", "0.9"), "holds no averaged weights"),
    "another optimizer": ((), ("--optimizer", "sgd"), "was trained with another optimizer"),
    "another batch": ((), ("--global-batch-size", "8"), "global_batch_size was 4 and is now 8"),
    "another model": ((), ("--gpt-model", "R-GPT-mini"), "does not fit this model"),
}


def cases() -> list[Case]:
    return [
        *(
            Case(f"{program}: {flag} {value}"[:40], partial(_number, program, flag, value))
            for program, numbers in NUMBERS.items()
            for flag, value in numbers
        ),
        *(Case(f"config file: {name}", partial(_kept, *line)) for name, line in KEPT.items()),
        *(Case(f"config file: {name}, refused", partial(_refused, *line)) for name, line in REFUSED.items()),
        *(Case(f"LC_ALL=C: {name}", partial(_named, value)) for name, value in NAMES.items()),
        Case("LC_ALL=C: a training in an umlaut's folder", _trained),
        *(Case(f"resume: {name}", partial(_resumed, *how)) for name, how in CONFLICTS.items()),
        Case("resume: rates of the flags, moments of the file", _rates),
    ]


def _number(program: str, flag: str, value: str, assets: Assets, folder: Path) -> None:
    config_class, required = PROGRAMS[program]
    parse(config_class, list(required))
    refused(lambda: parse(config_class, [*required, flag, value]), f"{flag} ", "must be ")


def _config(line: str, folder: Path) -> list[str]:
    file = folder / "run.yaml"
    file.write_text(f"vq_ckpt: v.pt\ndata_path: [a.jsonl]\n{line}\n")
    return ["--config", str(file)]


def _kept(line: str, name: str, wanted: Any, assets: Assets, folder: Path) -> None:
    value = getattr(parse(EditingConfig, _config(line, folder)), name)
    assert value == wanted and type(value) is type(wanted), f"{line} became {value!r}"


def _refused(line: str, message: str, assets: Assets, folder: Path) -> None:
    refused(lambda: parse(EditingConfig, _config(line, folder)), "run.yaml: line 3: ", message)


PROGRAM = """
import dataclasses, os, sys
from runtime.config import dump_config, option, parse

@dataclasses.dataclass
class Named:
    title: str = option(help="any text")

config = parse(Named)
dump_config(config, ".")
sys.stdout.buffer.write(os.fsencode(config.title))
"""
POSIX = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}


def _named(name: bytes, assets: Assets, folder: Path) -> None:
    """Through a flag, config.yaml and back."""
    for words in ([b"--title=" + name], [b"--config", b"config.yaml"]):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *words],
            cwd=folder,
            env=os.environ | POSIX | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
        )
        assert done.returncode == 0 and done.stdout == name, done.stderr.decode(errors="replace")


def _trained(assets: Assets, folder: Path) -> None:
    program = ROOT / "autoregressive" / "train" / "train_t2i.py"
    flags = [*_flags(assets), "--max-steps", "1", "--results-dir", folder / "größe"]
    done = subprocess.run(
        [sys.executable, program, *flags], cwd=ROOT, env=os.environ | POSIX, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert (folder / "größe" / "checkpoints" / "0000001.pt").exists()
    assert (folder / "größe" / "config.yaml").exists()


def _flags(assets: Assets) -> list[str]:
    return [*assets.train_flags(), "--data-path", str(assets.shapes / "train" / "t2i.jsonl")]


def _train(assets: Assets, folder: Path, *flags: str) -> dict:
    words = [*_flags(assets), "--auto-resume", "--results-dir", str(folder / "run"), *flags]
    train_t2i(parse(T2IConfig, words), ONE_RANK)
    return load_checkpoint(sorted((folder / "run" / "checkpoints").glob("*.pt"))[-1])


def _resumed(first: tuple, second: tuple, message: str, assets: Assets, folder: Path) -> None:
    _train(assets, folder, *first, "--max-steps", "1")
    refused(lambda: _train(assets, folder, *second, "--max-steps", "2"), message)
    assert _train(assets, folder, *first, "--max-steps", "2")["steps"] == 2, "with the flags of before"


def _rates(assets: Assets, folder: Path) -> None:
    before = _train(assets, folder, "--max-steps", "1")
    after = _train(assets, folder, "--max-steps", "2", "--lr", "1e-5", "--weight-decay", "0.2")
    for group in after["optimizer"]["param_groups"]:
        assert group["lr"] == 1e-5, f"the rate is {group['lr']}"
    assert {group["weight_decay"] for group in after["optimizer"]["param_groups"]} >= {0.2}
    assert {int(state["step"]) for state in after["optimizer"]["state"].values()} == {2}
    assert not same(before["model"], after["model"])
