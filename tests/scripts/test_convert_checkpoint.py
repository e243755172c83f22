"""Checkpoints become a folder for from_pretrained."""

from __future__ import annotations

import importlib
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import run_program
from PIL import Image

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.pipeline import EditingPipeline
from runtime.errors import UserError


def test_two_transformers_in_one_folder_draw_the_same_tokens(vq_ckpt, gpt_ckpts, t5_dir, tmp_path):
    shared = ["--vq-ckpt", vq_ckpt, "--t5-path", t5_dir, "--output-dir", tmp_path / "model"]
    shared += ["--cfg-scale", "1.5", "--temperature", "0.3", "--mask-rule", "exact", "--copy-text-encoder"]
    for model, name in (("edit", "editing"), ("t2i", "t2i")):
        done = run_program(
            "scripts/convert_checkpoint.py", *shared, "--gpt-ckpt", gpt_ckpts[model], "--model", name
        )
        assert str(tmp_path / "model") in done.stdout
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8))
    for model, name in (("edit", "editing"), ("t2i", "t2i")):
        plain = EditingPipeline.load(vq_ckpt, gpt_ckpts[model], t5_dir)
        folder = EditingPipeline.from_pretrained(tmp_path / "model", name)
        assert folder.defaults.sampling == Sampling(1.5, temperature=0.3)
        wanted = plain.edit(image, "red", sampling=Sampling(1.5, temperature=0.3), mask_rule="exact")[0]
        assert torch.equal(folder.edit(image, "red")[0].codes, wanted.codes)
    failed = run_program(
        "scripts/convert_checkpoint.py", *shared, "--gpt-ckpt", tmp_path / "gone.pt", check=False
    )
    assert failed.returncode == 2 and "gone.pt" in failed.stderr


def test_what_the_program_writes_by_default_can_be_read(vq_ckpt, gpt_ckpts, t5_dir, tmp_path, monkeypatch):
    """Encoders of a published name are named, others must be copied or left out."""
    program = importlib.import_module("scripts.convert_checkpoint")

    def convert(t5, name: str, *more: str) -> str | None:
        flags = ["--vq-ckpt", vq_ckpt, "--gpt-ckpt", gpt_ckpts["edit"], "--t5-path", t5, *more]
        monkeypatch.setattr("sys.argv", ["convert", *map(str, [*flags, "--output-dir", tmp_path / name])])
        program.main()
        return json.loads((tmp_path / name / "config.json").read_text())["text_encoder"]

    shutil.copytree(t5_dir, tmp_path / "t5-ckpt" / "flan-t5-xl")
    assert convert(tmp_path / "t5-ckpt", "named") == "google/flan-t5-xl"
    (tmp_path / "pretrained_models").mkdir()
    (tmp_path / "t5-ckpt").rename(tmp_path / "pretrained_models" / "t5-ckpt")
    monkeypatch.chdir(tmp_path)  # where the published place is
    assert EditingPipeline.from_pretrained("named").text_encoder is not None
    with pytest.raises(UserError, match=f"{t5_dir} has no name .*--copy-text-encoder.*--no-text-encoder"):
        convert(t5_dir, "refused")
    assert convert(t5_dir, "copied", "--copy-text-encoder") == "text_encoder"
    assert EditingPipeline.from_pretrained("copied").text_encoder is not None
    assert convert(t5_dir, "left_out", "--no-text-encoder") is None
    assert EditingPipeline.from_pretrained("left_out").text_encoder is None
    assert EditingPipeline.from_pretrained("left_out", t5_path=t5_dir).text_encoder is not None
