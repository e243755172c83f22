"""Tiny data and models, made on the spot: no network, no pretrained weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from autoregressive.models.config import GPT_MODELS
from autoregressive.models.gpt import Transformer
from autoregressive.models.weights import model_args
from dataset.shapes.flags import PrepareShapesConfig
from dataset.shapes.prepare import prepare_shapes
from language.small_encoder import make_small_t5, read_captions
from runtime.checkpoint import save_checkpoint
from tokenizer.tokenizer_image.vq_model import build_vq_model

IMAGE_SIZE = 24  # 3x3 cells of 8 pixels
TINY_VQ = {"codebook_size": 16, "width": 8, "z_channels": 8, "norm_groups": 2, "num_res_blocks": 1}


def write_shapes(folder: Path) -> Path:
    """A shapes set: 24 training pairs, 7 held-out edits."""
    config = PrepareShapesConfig(
        output_dir=str(folder), num_train=24, num_test=7, num_emu=2, image_size=IMAGE_SIZE, num_workers=1
    )
    prepare_shapes(config)
    return folder


def write_tokenizer(path: Path) -> Path:
    """An untrained tokenizer of 16 codes, 8 pixels a cell."""
    torch.manual_seed(0)
    model = build_vq_model("VQ-8-small", **TINY_VQ)
    args = {"vq_model": "VQ-8-small", "vq_config": dataclasses.asdict(model.config)}
    save_checkpoint(path, {"model": model.state_dict(), "args": args})
    return path


def write_t5(folder: Path, shapes: Path) -> Path:
    """A small T5 of width 16 that knows the shapes captions."""
    make_small_t5(read_captions([shapes / "train" / "t2i.jsonl"]), folder, 16)
    return folder


def write_transformers(folder: Path) -> dict[str, Path]:
    """An untrained text-to-image model and an untrained editor."""
    paths = {}
    for name, marks in (("t2i", False), ("edit", True)):
        torch.manual_seed(0)
        config = dataclasses.replace(
            GPT_MODELS["R-GPT-tiny"], vocab_size=16, block_size=9, caption_dim=16, mask_in_context=marks
        )
        model = Transformer(config)
        torch.nn.init.normal_(model.output.weight)
        paths[name] = folder / f"{name}.pt"
        save_checkpoint(paths[name], {"model": model.state_dict(), "args": model_args("R-GPT-tiny", config)})
    return paths


def tiny_train_flags(vq_ckpt: Path, t5_dir: Path) -> list[str]:
    """Flags of a tiny deterministic training; the data list and the results folder are the caller's."""
    return [
        "--vq-ckpt", str(vq_ckpt), "--t5-path", str(t5_dir), "--gpt-model", "R-GPT-tiny",
        "--image-size", str(IMAGE_SIZE), "--global-batch-size", "4", "--num-workers", "0",
        "--mixed-precision", "none", "--dropout-p", "0", "--token-dropout-p", "0", "--epochs", "100",
        "--no-epoch-save", "--device", "cpu", "--log-every", "1", "--lr", "1e-3",
    ]  # fmt: skip
