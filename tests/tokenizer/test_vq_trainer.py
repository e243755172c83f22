"""One step of tokenizer training: what is judged, what is skipped, counted and saved."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_vq_train import TINY

from dataset.image_folder import list_images
from runtime.checkpoint import save_checkpoint
from runtime.distributed import ONE_RANK
from runtime.errors import UserError
from tokenizer.tokenizer_image.losses import hinge_discriminator_loss
from tokenizer.tokenizer_image.vq_config import VQTrainConfig
from tokenizer.tokenizer_image.vq_loop import Batches, settle
from tokenizer.tokenizer_image.vq_registry import VQ_MODELS
from tokenizer.tokenizer_image.vq_state import VQTrainState
from tokenizer.tokenizer_image.vq_trainer import Trainer


@pytest.fixture
def new_trainer(tmp_path, monkeypatch):
    """Makes trainers on four images, whose discriminator takes part from the start."""
    monkeypatch.setitem(VQ_MODELS, "VQ-tiny", TINY)
    for i in range(4):
        Image.fromarray(np.full((32, 32, 3), 60 * i, np.uint8)).save(tmp_path / f"{i}.png")
    settings = {"data_path": str(tmp_path), "vq_model": "VQ-tiny", "image_size": 32, "augment": False}
    settings |= {"steps": 20, "global_batch_size": 4, "num_workers": 0, "perceptual_weight": 0.0}
    settings |= {"disc_start": 0, "mixed_precision": "none"}

    def make(**changes) -> Trainer:
        config = VQTrainConfig(**{**settings, **changes})
        return Trainer(config, VQTrainState(config, ONE_RANK), ONE_RANK)

    return make


def batches_of(trainer: Trainer) -> Batches:
    return Batches(trainer.config, list_images(trainer.config.data_path), ONE_RANK)


def saved(trainer: Trainer, without: tuple[str, ...] = ()) -> Path:
    """The trainer's checkpoint, less some keys."""
    content = trainer.state.checkpoint(batches_of(trainer).sampler.state_dict())
    path = Path(trainer.config.data_path) / f"less {len(without)}.pt"
    save_checkpoint(path, {name: part for name, part in content.items() if name not in without})
    return path


def some_images() -> torch.Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_discriminator_judges_each_side_with_its_own_statistics(new_trainer):
    trainer = new_trainer()
    judge, outputs = copy.deepcopy(trainer.state.discriminator), []
    trainer.model.register_forward_hook(lambda _, __, output: outputs.append(output.reconstruction.detach()))
    trainer.train_step([some_images()])
    with torch.no_grad():
        apart = hinge_discriminator_loss(judge(some_images()), judge(outputs[0]))
    assert trainer.read_metrics()["discriminator"] == pytest.approx(apart.item(), abs=1e-5)


def test_a_bad_gradient_of_the_discriminator_is_named_and_counted(new_trainer, capfd):
    trainer = new_trainer()
    state, batches = trainer.state, batches_of(trainer)
    first = state.discriminator[0].weight
    first.register_hook(lambda gradient: gradient * torch.nan)  # the tokenizer's step does not meet it
    before = first.detach().clone()
    norms = {step: (trainer.train_step([some_images()]), 0, 0) for step in range(1, 11)}
    settle(norms, batches, state, ONE_RANK)
    assert state.num_skipped == 10 and not norms and torch.equal(first, before)
    told = capfd.readouterr().err
    assert "step 10 skipped: the gradient norm is nan (discriminator); its samples: " in told
    assert "3.png" in told and "tokenizer" not in told
    resumed = new_trainer().state
    resumed.resume(saved(trainer))
    with pytest.raises(UserError, match="11 steps had a gradient that is not finite"):
        settle({11: (trainer.train_step([some_images()]), 0, 0)}, batches, resumed, ONE_RANK)


def test_a_loss_scale_is_sought_without_a_word_and_kept(new_trainer, capfd):
    trainer = new_trainer(mixed_precision="fp16")
    state = trainer.state
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    by_network = trainer.train_step([some_images()])
    assert not by_network["tokenizer"].isfinite() and not by_network["discriminator"].isfinite()
    settle({step: (by_network, 0, 0) for step in range(1, 13)}, batches_of(trainer), state, ONE_RANK)
    assert state.num_skipped == 0 and state.scaler.get_scale() == 2.0**59
    path = saved(trainer)
    resumed = new_trainer(mixed_precision="fp16").state
    resumed.resume(path)
    assert resumed.scaler.get_scale() == 2.0**59
    new_trainer().state.resume(path)  # without fp16 there is no scale to keep
    assert "scale" not in (told := capfd.readouterr().err) and "skipped" not in told


def test_older_checkpoints_resume_and_a_lost_loss_scale_is_told(new_trainer, capfd):
    trainer = new_trainer()
    trainer.state.num_skipped = 3
    path = saved(trainer, without=("scaler", "num_skipped", "bad_images"))
    state = new_trainer().state
    state.resume(path)
    assert (state.num_skipped, state.bad_images) == (0, [])
    assert not capfd.readouterr().err
    for checkpoint in (path, saved(trainer)):  # of a run without one
        new_trainer(mixed_precision="fp16").state.resume(checkpoint)
        assert f"{checkpoint} holds no loss scale" in capfd.readouterr().err


def test_codes_are_not_reseeded_from_a_step_without_a_finite_gradient(new_trainer):
    trainer = new_trainer(reseed_every=1, reseed_until=1.0, disc_weight=0.0)
    codebook = trainer.state.model.quantize.embedding.weight
    before = codebook.detach().clone()
    trainer.train_step([some_images() * torch.nan])
    assert torch.equal(codebook, before)
    trainer.train_step([some_images()])
    assert codebook.isfinite().all() and not torch.equal(codebook, before)


@pytest.mark.parametrize("change", [{"norm_groups": 4}, {"local_norm": True}])
def test_weights_of_another_arithmetic_are_refused_by_name(new_trainer, tmp_path, change):
    """They are of the same names and shapes."""
    trained = new_trainer().state
    content = trained.checkpoint({})
    content["args"]["vq_config"] |= change
    save_checkpoint(tmp_path / "other.pt", content)
    before = copy.deepcopy(trained.model.state_dict())
    with pytest.raises(UserError, match=f"other.pt .*another arithmetic: {next(iter(change))} is "):
        trained.load_weights(tmp_path / "other.pt")
    assert all(torch.equal(weight, before[name]) for name, weight in trained.model.state_dict().items())


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"ema": True}, {}, "holds ema weights, which would be lost: give --ema as"),
        ({}, {"ema": True}, "cannot be resumed, it lacks ema"),
        ({}, {"disc_weight": 0.0}, "holds discriminator weights, which would be lost: give a --disc-weight"),
        ({"disc_weight": 0.0}, {}, "cannot be resumed, it lacks discriminator"),
        ({"global_seed": 5}, {}, "was trained with --global-seed 5, and the flags say 0"),
        ({}, {"global_seed": 5}, "was trained with --global-seed 0, and the flags say 5"),
        ({}, {"optimizer": "muon"}, "was trained with another optimizer"),
        ({"optimizer": "muon"}, {}, "was trained with another optimizer"),
    ],
)
def test_what_a_resume_has_twice_must_agree(new_trainer, before, after, message):
    path = saved(new_trainer(**before))
    other = new_trainer(**after).state
    with pytest.raises(UserError, match=message):
        other.resume(path)
    new_trainer(**before).state.resume(path)
    if "lacks" not in message:
        other.load_weights(path)  # --finetune takes what it can use


def test_a_resume_takes_rates_from_the_flags_and_says_so(new_trainer, capfd):
    trainer = new_trainer(lr=1e-3)
    trainer.train_step([some_images()])
    path = saved(trainer)
    state = new_trainer(lr=1e-5, beta2=0.9, weight_decay=0.5).state
    state.resume(path)
    assert "other flags hold: --lr 0.001 → 1e-05, " in (told := capfd.readouterr().err)
    assert "--beta2 0.95 → 0.9" in told and "--vq-ckpt" not in told
    for optimizer in (state.optimizers, state.disc_optimizers):
        assert {group["initial_lr"] for group in optimizer.param_groups} == {1e-5}
        assert optimizer.param_groups[0]["betas"] == (0.9, 0.9)
        assert optimizer.param_groups[0]["weight_decay"] == 0.5
        moments = optimizer.state_dict()["state"]
        assert moments and all(moment["step"] == 1 for moment in moments.values())
