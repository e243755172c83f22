"""Tokenizer training: the loss terms, a run from the command line, exact resume, two ranks as one."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, run_program
from PIL import Image

from dataset.data_order import ResumableBatchSampler
from dataset.image_folder import ImageDataset, list_images
from runtime.checkpoint import load_checkpoint
from runtime.errors import UserError
from tokenizer.tokenizer_image import reconstruction_eval, vq_train
from tokenizer.tokenizer_image.losses import (
    PatchDiscriminator,
    gradient_l1,
    hinge_discriminator_loss,
    hinge_generator_loss,
    psnr,
)
from tokenizer.tokenizer_image.vq_config import VQTrainConfig
from tokenizer.tokenizer_image.vq_model import load_vq_model
from tokenizer.tokenizer_image.vq_registry import VQ_MODELS, VQConfig

TINY = VQConfig(
    codebook_size=16,
    width=8,
    channel_mult=(1,),
    num_res_blocks=1,
    z_channels=8,
    stem_stride=8,
    norm_groups=2,
    attention=False,
)


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.setitem(VQ_MODELS, "VQ-tiny", TINY)
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        pixels = np.zeros((32, 32, 3), np.uint8) + rng.integers(0, 256, 3, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def run(images, results, *more: str) -> dict:
    flags = (
        f"--data-path {images} --results-dir {results} --image-size 32 --no-augment --cache-images".split()
    )
    flags += "--global-batch-size 4 --num-workers 0 --device cpu --lr 1e-3 --perceptual-weight 0".split()
    flags += ["--disc-weight", "0", "--mixed-precision", "none", "--log-every", "1"]
    with pytest.MonkeyPatch.context() as patch:
        choices = {**VQTrainConfig.__dataclass_fields__["vq_model"].metadata, "choices": tuple(VQ_MODELS)}
        patch.setattr(VQTrainConfig.__dataclass_fields__["vq_model"], "metadata", choices)
        vq_train.main([*flags, "--vq-model", "VQ-tiny", *more])
    newest = max((results / "checkpoints").glob("*.pt"))
    return load_checkpoint(newest)


def lines(results) -> list[dict]:
    return [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]


def test_pixel_losses_in_closed_form():
    ramp = torch.arange(4.0).expand(1, 3, 4, 4)
    assert gradient_l1(ramp, torch.zeros_like(ramp)) == pytest.approx(1.0)
    flat = torch.full((2, 3, 4, 4), 0.2)
    torch.testing.assert_close(psnr(flat, torch.zeros_like(flat)), torch.full((2,), 20.0))


def test_hinge_losses_in_closed_form():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    assert hinge_discriminator_loss(real, fake) == pytest.approx(0.5 * (0.25 + 1.0))
    assert hinge_generator_loss(fake) == pytest.approx(1.0)
    assert PatchDiscriminator(4)(torch.zeros(2, 3, 64, 64)).shape == (2, 1, 6, 6)


def test_a_run_learns_logs_and_writes_what_loads(images, tmp_path):
    results = tmp_path / "run"
    tricks = "--quantize-after 20 --reseed-every 10 --l1-weight 1 --lr-schedule cosine"
    checkpoint = run(
        images, results, "--steps", "200", "--optimizer", "muon", "--lr", "1e-2", *tricks.split()
    )
    logged = lines(results)
    assert [line["step"] for line in logged] == list(range(1, 201))
    first, last = (np.mean([line["psnr"] for line in part]) for part in (logged[:10], logged[-10:]))
    assert last > first + 4
    assert 0 < logged[-1]["codebook_usage"] <= 1 and logged[-1]["eta_seconds"] == 0
    assert checkpoint["steps"] == 200 and (results / "previews" / "0000200.png").is_file()
    assert load_vq_model(results / "checkpoints" / "0000200.pt").config == TINY


def test_the_discriminator_joins_at_its_step_and_averages_are_kept(images, tmp_path):
    big = images.parent / "big"
    big.mkdir()
    for path in images.iterdir():
        Image.open(path).resize((40, 40)).save(big / path.name)
    adversarial = "--steps 3 --disc-weight 0.5 --disc-start 2 --ema --ema-decay 0.5 --mixed-precision bf16"
    checkpoint = run(big, tmp_path / "run", *adversarial.split())
    logged = lines(tmp_path / "run")
    assert "discriminator" not in logged[1] and logged[2]["discriminator"] > 0
    ema, model = checkpoint["ema"], checkpoint["model"]
    assert not torch.equal(ema["encoder.conv_in.weight"], model["encoder.conv_in.weight"])
    loaded = load_vq_model(tmp_path / "run" / "checkpoints" / "0000003.pt")
    assert torch.equal(loaded.encoder.conv_in.weight, ema["encoder.conv_in.weight"])


@pytest.mark.parametrize("stop", [2, 5])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(images, tmp_path, stop):
    tricks = "--quantize-after 3 --reseed-every 2 --reseed-until 1 --steps 7 --optimizer muon --ema".split()
    whole = run(images, tmp_path / "whole", *tricks, "--ckpt-every", str(stop), "--max-checkpoints", "0")
    middle = tmp_path / "whole" / "checkpoints" / f"{stop:07d}.pt"
    resumed = run(images, tmp_path / "part", *tricks, "--vq-ckpt", str(middle))
    for part in ("model", "ema"):
        for name, value in whole[part].items():
            assert torch.equal(value, resumed[part][name]), (part, name)
    assert whole["data"] == resumed["data"]


def test_two_ranks_give_the_weights_of_one(images, tmp_path):
    flags = f"--data-path {images} --image-size 32 --no-augment --cache-images --global-batch-size 4".split()
    flags += "--num-workers 0 --device cpu --lr 1e-4 --perceptual-weight 0 --disc-weight 0 --steps 2".split()
    flags += "--mixed-precision none --vq-model VQ-8-small --max-grad-norm 0".split()
    vq_train.main([*flags, "--results-dir", str(tmp_path / "one")])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = str(ROOT / "tokenizer/tokenizer_image/vq_train.py")
    command = [*launch, script, *flags, "--results-dir", str(tmp_path / "two")]
    subprocess.run(command, check=True, cwd=ROOT, env=None, timeout=120, capture_output=True)
    one, two = (load_checkpoint(tmp_path / n / "checkpoints" / "0000002.pt")["model"] for n in ("one", "two"))
    for name in one:
        # AdamW's first steps are lr times the gradient's sign: rounding flips those of size 0.
        assert (one[name] - two[name]).abs().mean() < 1e-6, name


@pytest.mark.slow
def test_four_ranks_go_on_exactly(images, tmp_path):
    flags = f"--data-path {images} --image-size 32 --no-augment --cache-images --global-batch-size 4".split()
    flags += "--num-workers 0 --device cpu --perceptual-weight 0 --disc-weight 0.5 --disc-start 0".split()
    flags += "--mixed-precision none --vq-model VQ-8-small --steps 4 --ckpt-every 2".split()
    program = "tokenizer/tokenizer_image/vq_train.py"
    run_program(program, *flags, "--results-dir", tmp_path / "whole", ranks=4)
    half = tmp_path / "whole" / "checkpoints" / "0000002.pt"
    run_program(program, *flags, "--vq-ckpt", half, "--results-dir", tmp_path / "part", ranks=4)
    whole, part = (load_checkpoint(tmp_path / n / "checkpoints" / "0000004.pt") for n in ("whole", "part"))
    for network in ("model", "discriminator"):
        for name, value in whole[network].items():
            assert torch.equal(value, part[network][name]), (network, name)


def test_settings_that_cannot_work_are_explained(images, tmp_path):
    with pytest.raises(UserError, match="--perceptual-weight 0"):
        run(images, tmp_path / "a", "--perceptual-weight", "1")
    with pytest.raises(UserError, match="--no-augment"):
        run(images, tmp_path / "b", "--augment")
    with pytest.raises(UserError, match="cannot be resumed"):
        torch.save({"model": run(images, tmp_path / "c", "--steps", "1")["model"]}, tmp_path / "w.pt")
        run(images, tmp_path / "d", "--vq-ckpt", str(tmp_path / "w.pt"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--image-size 20", "--image-size 20 is not a multiple of 8"),
        ("--quantize-after 2", "--quantize-after 2: the run ends at step 2, before there are codes"),
        (
            "--image-size 16 --disc-weight 1 --disc-start 1",
            "--image-size 16: the discriminator judges .* of 24",
        ),
    ],
)
def test_what_would_fail_late_or_leave_no_codes_is_refused_before_it_starts(images, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        run(images, tmp_path / "run", "--steps", "2", *flags.split())
    assert not (tmp_path / "run").exists()


def test_the_smallest_images_of_the_discriminator_train(images, tmp_path):
    run(images, tmp_path / "run", *"--steps 2 --image-size 24 --disc-weight 1 --disc-start 1".split())


def spoil(images, *numbers: int) -> None:
    for number in numbers:
        (images / f"{number}.png").write_bytes(b"no image")


def test_bad_images_are_counted_over_a_resume(images, tmp_path):
    flags = ("--bad-sample-budget", "0.1", "--max-checkpoints", "0")  # one of twelve
    good = (images / "3.png").read_bytes()
    spoil(images, 3)
    first = run(images, tmp_path / "a", "--steps", "3", *flags)  # one epoch
    assert len(first["bad_images"]) == 1 and "3.png" in first["bad_images"][0]
    (images / "3.png").write_bytes(good)
    middle = tmp_path / "a" / "checkpoints" / "0000003.pt"
    resumed = run(images, tmp_path / "b", "--steps", "6", *flags, "--vq-ckpt", str(middle))
    assert resumed["bad_images"] == first["bad_images"]
    spoil(images, 7)
    with pytest.raises(
        UserError, match=r"2 unreadable images, more than.*0.1 of 12(?s:.*)3\.png.*\n.*7\.png"
    ):
        run(images, tmp_path / "c", "--steps", "6", *flags, "--vq-ckpt", str(middle))


def test_cached_bad_images_stop_the_run_before_it_trains(images, tmp_path):
    spoil(images, 3, 7)
    with pytest.raises(UserError, match="2 unreadable images"):
        run(images, tmp_path / "run", "--steps", "1", "--bad-sample-budget", "0.1")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_two_ranks_share_the_budget_of_bad_images(images, tmp_path):
    order = ResumableBatchSampler(12, 4, 0, 2, 0).indices_at(0, 0)
    paths = list_images(images)
    bad = [int(paths[order[place]].stem) for place in (0, 2)]  # the first of each rank
    spoil(images, *bad)
    flags = ["--data-path", images, "--results-dir", tmp_path / "run", "--image-size", 32, "--log-every", 3]
    flags += "--global-batch-size 4 --num-workers 0 --device cpu --perceptual-weight 0 --steps 3".split()
    flags += "--disc-weight 0.5 --disc-start 0 --mixed-precision none --vq-model VQ-8-small".split()
    flags += ["--gradient-accumulation-steps", 2, "--bad-sample-budget", 0.1]
    failed = run_program("tokenizer/tokenizer_image/vq_train.py", *flags, ranks=2, check=False)
    assert failed.returncode
    message = failed.stderr.rpartition("2 unreadable images, more than --bad-sample-budget 0.1 of 12")[2]
    assert all(f"{number}.png" in message for number in bad), failed.stderr


@pytest.mark.parametrize("every", ["0", "-1"])
def test_without_an_interval_only_the_last_step_saves(images, tmp_path, every):
    run(images, tmp_path, "--steps", "3", "--ckpt-every", every, "--max-checkpoints", "0")
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.pt")] == ["0000003.pt"]


def test_images_are_read_from_folders_and_jsonl_and_bad_ones_are_named(images, tmp_path):
    listing = tmp_path / "list.jsonl"
    listing.write_text("".join(json.dumps({"image_path": f"images/{i}.png"}) + "\n" for i in (3, 1)))
    assert [path.name for path in list_images(listing)] == ["3.png", "1.png"]
    (images / "1.png").write_bytes(b"no image")
    dataset = ImageDataset(list_images(listing), 16, augment=False)
    sample = dataset[1, 0]
    assert "1.png" in sample.problems[0] and torch.equal(sample.image, dataset[0, 0].image)
    with pytest.raises(UserError, match="holds no images"):
        list_images(tmp_path / "images" / "..").clear() or (tmp_path / "empty").mkdir()
        list_images(tmp_path / "empty")


def test_augmentation_depends_on_the_seed_alone(images):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(
        images / "0.png"
    )
    dataset = ImageDataset([images / "0.png"], 16, augment=True)
    assert torch.equal(dataset[0, 5].image, dataset[0, 5].image)
    assert not torch.equal(dataset[0, 5].image, dataset[0, 6].image)


def test_reconstruction_evaluation_reports_a_perfect_and_a_real_tokenizer(images, tmp_path):
    run(images, tmp_path / "run", "--steps", "1")
    checkpoint = tmp_path / "run" / "checkpoints" / "0000001.pt"
    out = tmp_path / "out"
    flags = [
        "--vq-ckpt",
        str(checkpoint),
        "--data-path",
        str(images),
        "--image-size",
        "32",
        "--output-dir",
        str(out),
    ]
    reconstruction_eval.main([*flags, "--device", "cpu", "--num-images", "10", "--batch-size", "4"])
    report = json.loads((out / "reconstruction.json").read_text())
    assert report["num_images"] == 10 and report["fid"] is None
    model = load_vq_model(checkpoint)
    batch = torch.stack([ImageDataset(list_images(images), 32, False)[i, 0].image for i in range(10)])
    expected = psnr(model.decode_ids(model.encode_ids(batch)), batch).mean().item()
    assert report["psnr"] == pytest.approx(expected, abs=1e-3)
    assert -1 <= report["ssim"] <= 1 and 0 < report["codebook_usage"] <= 1
    assert (out / "reconstruction.png").is_file()
