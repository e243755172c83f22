"""The way to the shipped models, at a tiny size: training, export, scores, model card."""

from __future__ import annotations

import hashlib

import pytest
import torch
from conftest import run_program
from PIL import Image
from test_pretrained import check_metadata

from autoregressive.editing.pipeline import EditingPipeline
from runtime.checkpoint import load_checkpoint

TINY = ["--num-train", "40", "--num-more", "40", "--num-test", "4", "--tokenizer-steps", "2"]


@pytest.mark.slow
def test_trained_models_are_exported_scored_and_shipped(tmp_path):
    run, shipped = tmp_path / "run", tmp_path / "shipped"
    steps = ["--stage1-steps", "2", "--stage2-steps", "2", "--exact-steps", "2"]
    run_program("scripts/train_shapes.py", "--results-dir", run, *TINY, *steps)
    run_program("scripts/ship_shapes.py", "--results-dir", run, "--output-dir", shipped)
    card = (shipped / "README.md").read_text()
    check_metadata(card, "image-to-image")
    assert "Not the published arithmetic" in card
    folders = {"tokenizer": "tokenizer", "t2i": "stage1", "editing": "stage2_exact"}
    for name, folder in folders.items():
        path = shipped / f"{name}.safetensors"
        assert hashlib.sha256(path.read_bytes()).hexdigest() in card
        trained = load_checkpoint(run / folder / "checkpoints" / "0000002.pt")["model"]
        weights = load_checkpoint(path)["model"]
        assert weights.keys() == trained.keys()
        for key, weight in weights.items():
            assert weight.dtype == torch.float16
            torch.testing.assert_close(weight.float(), trained[key], rtol=1e-3, atol=1e-6)
        if name != "tokenizer":
            pipeline = EditingPipeline.from_pretrained(shipped, name)
            assert pipeline.image_size == 72 and pipeline.transformer.norm.weight.dtype == torch.float32
    assert sum("| 4 |" in line for line in card.splitlines()) == 11  # edits of each mode
    for words in (
        "the same in reverse order (editing)",
        "zero-shot, region",
        "the same in spiral order (t2i)",
    ):
        assert words in card
    assert "drawn from the caption in random order (t2i)" in card
    assert Image.open(shipped / "curves.png").width > 600
    again = run_program("scripts/train_shapes.py", "--results-dir", run, *TINY, *steps)
    assert again.stderr.count("done already") == len(list((run / "steps").iterdir()))


def test_what_is_missing_or_misnamed_is_said(tmp_path):
    done = run_program("scripts/ship_shapes.py", "--results-dir", tmp_path, check=False)
    assert done.returncode == 2 and "tokenizer.safetensors does not exist; let" in done.stderr
    done = run_program("scripts/export_weights.py", "--ckpt", "a.pt", "--output", "b.bin", check=False)
    assert done.returncode == 2 and "*.safetensors" in done.stderr
