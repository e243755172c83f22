"""Checkpoints become a folder for from_pretrained."""

from __future__ import annotations

import numpy as np
import torch
from conftest import run_program
from PIL import Image

from autoregressive.models.sampling import Sampling
from autoregressive.pipeline import EditingPipeline


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
