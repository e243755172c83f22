"""`--dry-run`: its estimates beside what a training then uses."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, run_program
from PIL import Image
from test_training import run_stage, stage_flags

from autoregressive.train.dry_run import _require_usable
from dataset.batches import EditSample, T2ISample, collate_samples
from runtime.distributed import distributed
from runtime.errors import UserError

PEAK = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def editing_flags(train_flags, shapes, tmp_path) -> list[str]:
    flags = [*train_flags, "--mask_in_context", "--text-field", "instruction"]
    return flags + ["--data-path", shapes / "train" / "editing.jsonl", "--results-dir", tmp_path / "run"]


@pytest.mark.parametrize("stage", ["t2i", "editing"])
def test_it_tells_everything_and_trains_nothing(stage, shapes, train_flags, tmp_path):
    data = ["--data-path", shapes / "train" / f"{stage}.jsonl", "--results-dir", tmp_path / "run"]
    program = f"autoregressive/train/train_{stage}.py"
    done = run_program(
        program, *train_flags, *data, "--max-steps", "30", "--max-checkpoints", "2", "--dry-run"
    )
    for words in (
        "R-GPT-tiny, 0.14 M parameters on cpu",
        "ranks            1, 4 sample(s) a step on each",
        "memory per rank",
        "steps            30 of 4 samples",
        "tokens/s",
        "kept: ",
        "first batch",
    ):
        assert words in done.stderr, done.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["first_batch.png"]
    picture = Image.open(tmp_path / "run" / "first_batch.png")
    assert picture.height > {"t2i": 24, "editing": 3 * 24}[stage] and picture.width > 4 * 24


def batch_of(kind: str, *problems: str | None):
    image, mask = torch.zeros(3, 4, 4), torch.zeros(4, dtype=torch.bool)
    if kind == "t2i":
        return collate_samples([T2ISample(image, "a", 0, "x", problem) for problem in problems])
    return collate_samples([EditSample(image, image, mask, "a", 0, "x", problem) for problem in problems])


@pytest.mark.parametrize("kind", ["t2i", "editing"])
def test_it_fails_without_a_usable_sample(kind):
    with distributed("cpu") as ranks:
        _require_usable([batch_of(kind, "torn"), batch_of(kind, None)], ranks)
        _require_usable([batch_of(kind, "torn", None)], ranks)
        with pytest.raises(UserError, match="no sample of the first batch can be used(.|\n)*torn"):
            _require_usable([batch_of(kind, "torn", "lost"), batch_of(kind, "torn")], ranks)


def test_of_a_run_that_is_done_it_says_so(shapes, train_flags, tmp_path):
    """And does not ask for data to be mended."""
    flags = [*stage_flags("t2i", shapes, train_flags), "--global-batch-size", "48", "--epochs", "1"]
    run_stage("t2i", flags, tmp_path)
    with pytest.raises(UserError, match="0000001.pt has done all of --epochs 1: nothing is left to train"):
        run_stage("t2i", [*flags, "--auto-resume", "--dry-run"], tmp_path)


def tokenizer_flags(shapes, tmp_path) -> list[str]:
    flags = "--vq-model VQ-8-small --image-size 24 --global-batch-size 4 --num-workers 0 --device cpu".split()
    data = ["--data-path", shapes / "train" / "t2i.jsonl", "--results-dir", tmp_path / "run"]
    return flags + ["--perceptual-weight", "0", "--log-every", "1", *data]


def test_the_tokenizers_training_tells_as_much(shapes, tmp_path):
    flags = [*tokenizer_flags(shapes, tmp_path), "--steps", "30", "--ckpt-every", "5", "--ema", "--dry-run"]
    told = run_program("tokenizer/tokenizer_image/vq_train.py", *flags).stderr
    for words in (
        "VQ-8-small, ",
        "4 sample(s) a step",
        "memory per rank",
        "steps            30 of 4",
        "images/s",
        "3 kept",
    ):
        assert words in told, told
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["first_batch.png"]
    # Weights, their average, and the discriminator; two averages for each trained weight.
    checkpoint = float(re.search(r"disk +([\d.]+) GB a checkpoint", told).group(1)) * 1e9
    run_program("tokenizer/tokenizer_image/vq_train.py", *flags[:-1], "--steps", "1", "--disc-start", "0")
    (written,) = (tmp_path / "run" / "checkpoints").glob("*.pt")
    assert checkpoint == pytest.approx(written.stat().st_size, rel=0.02, abs=0.006e9)


def check_memory(program: str, flags: list) -> None:
    told = run_program(program, *flags, "--dry-run").stderr
    estimate = float(re.search(r"memory per rank  ([\d.]+) GB", told).group(1)) * 1e9
    done = subprocess.run(
        [sys.executable, "-c", PEAK, program, *map(str, flags)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    peak = int(re.search(r"PEAK (\d+)", done.stdout).group(1))
    print(f"estimate {estimate / 1e9:.2f} GB, used {peak / 1e9:.2f} GB")
    assert abs(estimate / peak - 1) < 0.15, f"estimate {estimate / 1e9:.2f} GB, used {peak / 1e9:.2f} GB"


@pytest.mark.slow
@pytest.mark.parametrize(
    "extra",
    [
        "",
        "--optimizer muon",
        "--ema-decay 0.9",
        "--activation-checkpointing",
        "--global-batch-size 16",
        "--global-batch-size 24 --gradient-accumulation-steps 2",
    ],
)
def test_the_memory_is_what_a_training_then_uses(extra, shapes, train_flags, tmp_path):
    program = "autoregressive/train/train_editing.py"
    flags = editing_flags(train_flags, shapes, tmp_path) + ["--gpt-model", "R-GPT-B", "--max-steps", "3"]
    check_memory(program, flags + extra.split())


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["--disc-start 1", "--disc-weight 0 --ema", "--quantize-after 1"])
def test_so_it_is_with_the_tokenizer(extra, shapes, tmp_path):
    flags = tokenizer_flags(shapes, tmp_path) + "--image-size 96 --steps 3".split() + extra.split()
    check_memory("tokenizer/tokenizer_image/vq_train.py", flags)
