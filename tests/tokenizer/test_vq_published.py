"""LlamaGen's tokenizer training as published: its command on an image folder, and what each flag does."""

from __future__ import annotations

import json
import math
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from dataset.image_folder import list_images
from runtime.checkpoint import load_checkpoint
from runtime.config import parse
from runtime.errors import UserError
from tokenizer.tokenizer_image import vq_loop, vq_train
from tokenizer.tokenizer_image.codebook import entropy_loss
from tokenizer.tokenizer_image.losses import (
    DISCRIMINATOR_LOSSES,
    GENERATOR_LOSSES,
    hinge_discriminator_loss,
)
from tokenizer.tokenizer_image.vq_config import (
    DISCRIMINATOR_LOSS_NAMES,
    GENERATOR_LOSS_NAMES,
    VQTrainConfig,
)
from tokenizer.tokenizer_image.vq_model import VQModel, load_vq_model
from tokenizer.tokenizer_image.vq_registry import VQ_MODELS, VQConfig

TINY = VQConfig(
    width=4,
    channel_mult=(1,),
    num_res_blocks=1,
    z_channels=4,
    stem_stride=8,
    norm_groups=2,
    attention=False,
)
COMMAND = """--data-path {data} --dataset imagenet --cloud-save-path /cloud --no-local-save --vq-model VQ-16
 --finetune --vq-ckpt {start} --ema --codebook-size 32 --codebook-embed-dim 4 --codebook-l2-norm
 --codebook-weight 1.0 --entropy-loss-ratio 0.1 --commit-loss-beta 0.25 --reconstruction-weight 1.0
 --reconstruction-loss l2 --perceptual-weight 0 --disc-weight 0.5 --disc-start 1 --disc-type patchgan
 --disc-loss hinge --gen-loss hinge --dropout-p 0.1 --results-dir {out} --image-size 32 --epochs 2 --lr 1e-4
 --weight-decay 5e-2 --beta1 0.9 --beta2 0.95 --max-grad-norm 1.0 --global-batch-size 4 --global-seed 0
 --num-workers 0 --log-every 1 --ckpt-every 5000 --gradient-accumulation-steps 2 --mixed-precision none"""
WITHOUT_EFFECT = ("--dataset", "--cloud-save-path", "--no-local-save", "--codebook-l2-norm")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A small model under a published name."""
    monkeypatch.setitem(VQ_MODELS, "VQ-16", TINY)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Ten images in ImageNet's layout: one folder a class."""
    folder = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for i in range(10):
        path = folder / f"n0{i % 2}" / f"{i}.JPEG"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
    return folder


def train(results, data, *more: object) -> dict:
    flags = f"--data-path {data} --results-dir {results} --image-size 32 --no-augment --num-workers 0".split()
    flags += "--global-batch-size 4 --perceptual-weight 0 --disc-weight 0 --mixed-precision none".split()
    flags += "--codebook-size 32 --codebook-embed-dim 4 --device cpu --log-every 1 --lr 1e-3".split()
    vq_train.main([*flags, *map(str, more)])
    return load_checkpoint(max((results / "checkpoints").glob("*.pt")))


def logged(results) -> list[dict]:
    return [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("spelling", ["-", "_"])
def test_the_published_command_trains_from_an_image_folder(spelling, images, tmp_path, capsys):
    train(tmp_path / "start", images, "--steps", 1, "--disc-weight", 0.5)
    start = tmp_path / "start" / "checkpoints" / "0000001.pt"
    words = shlex.split(COMMAND.format(data=images, start=start, out=tmp_path / "run"))
    words = [w.replace("-", spelling).replace("__", "--", 1) if w.startswith("--") else w for w in words]
    vq_train.main([*words, "--device", "cpu"])
    numbers = logged(tmp_path / "run")
    assert [line["step"] for line in numbers] == [1, 2, 3, 4]  # 2 epochs of 10 images, 4 a step
    assert numbers[-1]["generator"] and numbers[-1]["discriminator"] and numbers[-1]["entropy"]
    assert "ema" in load_checkpoint(tmp_path / "run" / "checkpoints" / "0000004.pt")
    assert load_vq_model(tmp_path / "run" / "checkpoints" / "0000004.pt").config.codebook_size == 32
    said = capsys.readouterr().err
    assert all(f"{flag} has no effect" in said for flag in WITHOUT_EFFECT)


def test_accumulated_gradients_are_those_of_the_whole_batch(images, tmp_path):
    common = ("--steps", 2, "--max-grad-norm", 0, "--entropy-loss-ratio", 0)
    whole = train(tmp_path / "whole", images, *common)["model"]
    parts = train(tmp_path / "parts", images, *common, "--gradient-accumulation-steps", 4)["model"]
    for name in whole:
        # AdamW's first steps are lr times the gradient's sign: rounding flips those of size 0.
        assert (whole[name] - parts[name]).abs().mean() < 1e-5, name
    for a, b in zip(logged(tmp_path / "whole"), logged(tmp_path / "parts"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)


def test_the_absolute_pixel_error_replaces_the_squared_one(images, tmp_path):
    train(tmp_path / "l1", images, "--steps", 1, "--reconstruction-loss", "l1")
    train(tmp_path / "l2", images, "--steps", 1, "--l1-weight", 1)
    l1, l2 = logged(tmp_path / "l1")[0], logged(tmp_path / "l2")[0]
    assert l1["reconstruction"] == l2["l1"] != l2["reconstruction"]


def test_dropout_changes_training_and_is_resumed_exactly(images, tmp_path):
    flags = ("--steps", 4, "--ckpt-every", 2, "--max-checkpoints", 0)
    plain = train(tmp_path / "plain", images, *flags)["model"]
    whole = train(tmp_path / "whole", images, *flags, "--dropout-p", 0.2)["model"]
    middle = tmp_path / "whole" / "checkpoints" / "0000002.pt"
    resumed = train(tmp_path / "resumed", images, *flags, "--dropout-p", 0.2, "--vq-ckpt", middle)["model"]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not torch.equal(plain["encoder.conv_in.weight"], whole["encoder.conv_in.weight"])


def test_entropy_loss_in_closed_form():
    codes = torch.eye(8)
    assert entropy_loss(codes, codes).item() == pytest.approx(-math.log(8), abs=1e-3)  # sure, even
    assert entropy_loss(codes[:1].expand(5, -1), codes).item() == pytest.approx(0, abs=1e-3)  # sure, one code
    between = torch.nn.functional.normalize(torch.ones(1, 8), dim=1)
    assert entropy_loss(between, codes).item() == pytest.approx(0, abs=1e-3)  # unsure: log 8 - log 8


def test_the_losses_that_flags_name_are_there():
    assert DISCRIMINATOR_LOSS_NAMES == tuple(DISCRIMINATOR_LOSSES)
    assert GENERATOR_LOSS_NAMES == tuple(GENERATOR_LOSSES)


def test_adversarial_losses_in_closed_form():
    zero = torch.zeros(3)
    assert DISCRIMINATOR_LOSSES["vanilla"](zero, zero).item() == pytest.approx(math.log(2))
    assert DISCRIMINATOR_LOSSES["non-saturating"](zero + 50, zero - 50).item() == pytest.approx(0)
    assert GENERATOR_LOSSES["non-saturating"](zero - 50).item() == pytest.approx(50)
    assert DISCRIMINATOR_LOSSES["hinge"] is hinge_discriminator_loss


def test_llamagens_discriminator_weights_load(images, tmp_path):
    content = train(tmp_path / "a", images, "--steps", 1, "--disc-weight", 0.5, "--disc-start", 0)
    theirs = {f"main.{name}": tensor for name, tensor in content["discriminator"].items()}
    torch.save({"model": content["model"], "discriminator": theirs}, tmp_path / "theirs.pt")
    flags = ("--steps", 1, "--disc-weight", 0.5, "--finetune", "--vq-ckpt", tmp_path / "theirs.pt")
    loaded = train(tmp_path / "b", images, *flags, "--disc-start", 9)["discriminator"]
    assert all(torch.equal(loaded[name], content["discriminator"][name]) for name in loaded)


def test_compile_compiles(images, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(VQModel, "compile", lambda model: compiled.append(model))
    train(tmp_path / "run", images, "--steps", 1, "--compile")
    assert len(compiled) == 1


def test_what_cannot_be_done_is_said(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    base = ["--data-path", str(images)]
    for flags, message in (
        ([], "VGG16.*--perceptual-weight 0"),
        (["--disc-type", "stylegan", "--perceptual-weight", "0"], "stylegan is not built"),
        (["--steps", "3", "--epochs", "2", "--perceptual-weight", "0"], "give one"),
        (["--optimizer", "muon", "--mixed-precision", "fp16", "--perceptual-weight", "0"], "muon.*use.*bf16"),
        (["--log-every", "0"], "--log-every 0: must be at least 1"),
        (["--gradient-accumulation-steps", "0"], "--gradient-accumulation-steps 0: must be at least 1"),
        (["--global-batch-size", "-4"], "--global-batch-size -4: must be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            parse(VQTrainConfig, base + flags).check()
    assert parse(VQTrainConfig, base).num_steps(7) == 400_000
    assert parse(VQTrainConfig, [*base, "--epochs", "40"]).num_steps(7) == 280


def test_images_named_in_a_folder_of_lists(images, tmp_path):
    """`--dataset t2i_image --data-face-path`: folders of jsonl files."""
    for folder, numbers in (("aesthetic", (3, 1)), ("face", (8,))):
        (tmp_path / folder).mkdir()
        lines = [json.dumps({"image_path": str(images / f"n0{i % 2}" / f"{i}.JPEG")}) for i in numbers]
        (tmp_path / folder / f"part_{folder}.jsonl").write_text("\n".join(lines))
    words = ["--data-path", str(tmp_path / "aesthetic"), "--data-face-path", str(tmp_path / "face")]
    with pytest.raises(UserError, match="--allow-outside-root"):
        vq_loop.find_images(parse(VQTrainConfig, words))
    paths = vq_loop.find_images(parse(VQTrainConfig, [*words, "--allow-outside-root"]))
    assert [path.stem for path in paths] == ["3", "1", "8"]
    (tmp_path / "face" / "all.jsonl").write_text(lines[0].replace("8.JPEG", "6.JPEG"))  # published: no faces
    assert vq_loop.find_images(parse(VQTrainConfig, [*words, "--allow-outside-root"])) == paths
    assert len(list_images(images)) == 10
