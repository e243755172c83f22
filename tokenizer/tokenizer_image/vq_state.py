"""Everything that a tokenizer training run changes, and how it is saved and resumed."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch

from runtime.checkpoint import compare_with_flags, load_checkpoint, load_weights
from runtime.containers import unwrap
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.optim import build_optimizer
from tokenizer.tokenizer_image.codebook import CodeCounts
from tokenizer.tokenizer_image.losses import PatchDiscriminator
from tokenizer.tokenizer_image.vq_config import VQTrainConfig
from tokenizer.tokenizer_image.vq_model import VQModel, build_vq_model, require_same_arithmetic

log = get_logger(__name__)


class VQTrainState:
    """Weights, optimizers, averages, code counts and the step of a run.

    Attributes:
      step: finished steps.
      num_skipped: steps that left weights as they were because a gradient was not finite.
      bad_images: what is wrong with the unreadable images met so far, on all ranks.
    """

    def __init__(self, config: VQTrainConfig, device: torch.device) -> None:
        overrides = {
            name: value
            for name in ("codebook_size", "codebook_embed_dim", "dropout_p")
            if (value := getattr(config, name)) is not None
        }
        torch.manual_seed(config.global_seed)
        self.config = config
        self.device = device
        # Convolutions are fastest with channels last, on CPUs in bf16 by half again.
        self.model: VQModel = build_vq_model(config.vq_model, **overrides).to(
            device, memory_format=torch.channels_last
        )
        self.discriminator = PatchDiscriminator().to(device) if config.disc_weight else None
        self.averaged: VQModel | None = (
            copy.deepcopy(self.model).requires_grad_(False) if config.ema else None
        )
        settings = {
            "lr": config.lr,
            "weight_decay": config.weight_decay,
            "betas": (config.beta1, config.beta2),
        }
        self.optimizer = build_optimizer(self.model, config.optimizer, muon_lr=config.muon_lr, **settings)
        self.disc_optimizer = self.discriminator and build_optimizer(self.discriminator, "adamw", **settings)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.mixed_precision == "fp16")
        codebook_size = self.model.config.codebook_size
        self.unused_counts = CodeCounts(codebook_size, device)
        self.step = 0
        self.num_skipped = 0
        self.bad_images: list[str] = []

    @property
    def final_model(self) -> VQModel:
        """The weights to use after training."""
        return self.averaged or self.model

    @torch.no_grad()
    def update_average(self) -> None:
        """Moves the averaged weights towards the current ones."""
        if self.averaged is not None:
            for average, current in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
                average.lerp_(current, 1 - self.config.ema_decay)

    def checkpoint(self, data: dict[str, int]) -> dict[str, Any]:
        """A checkpoint with the published keys; `args` also holds what `load_vq_model` rebuilds from.

        Args:
          data: the state of the batch sampler.
        """
        args = dataclasses.asdict(self.config) | {"vq_config": dataclasses.asdict(self.model.config)}
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.step,
            "args": args,
            "data": data,
            "code_counts": self.unused_counts.counts,
            "scaler": self.scaler.state_dict(),
            "num_skipped": self.num_skipped,
            "bad_images": self.bad_images,
        }
        if self.averaged is not None:
            content["ema"] = self.averaged.state_dict()
        if self.discriminator is not None:
            content["discriminator"] = self.discriminator.state_dict()
            content["optimizer_disc"] = self.disc_optimizer.state_dict()
        return content

    def load_weights(self, path: str | Path) -> None:
        """Starts from the weights of any tokenizer checkpoint of this size."""
        checkpoint = load_checkpoint(path)
        require_same_arithmetic(self.model.config, checkpoint, path)
        load_weights(self.model, checkpoint["model"], path)
        if self.averaged is not None:
            load_weights(self.averaged, checkpoint.get("ema", checkpoint["model"]), path)
        if self.discriminator is not None and "discriminator" in checkpoint:
            # LlamaGen's discriminator is the same but for a name in front.
            weights = unwrap(checkpoint["discriminator"], path)["model"]
            weights = {n.removeprefix("main."): t for n, t in weights.items()}
            load_weights(self.discriminator, weights, path)

    def resume(self, path: str | Path) -> dict[str, int]:
        """Goes on exactly where one of our checkpoints was written.

        The file gives what training has made, the flags give every setting; what both say must agree.

        Returns:
          the state of the batch sampler.
        Raises:
          UserError: weights only, another model, seed or kind of optimizer, or averages or a discriminator in
            one of them only.
        """
        checkpoint = load_checkpoint(path)
        wanted = {"data", "code_counts", "optimizer"}
        wanted |= {"ema"} if self.averaged is not None else set()
        wanted |= {"discriminator", "optimizer_disc"} if self.discriminator is not None else set()
        if missing := sorted(wanted - set(checkpoint)):
            raise UserError(
                f"{path} cannot be resumed, it lacks {', '.join(missing)}; add --finetune to start from it"
            )
        for part, own, flag in (
            ("ema", self.averaged, "--ema"),
            ("discriminator", self.discriminator, "a --disc-weight above 0"),
        ):
            if own is None and part in checkpoint:
                raise UserError(
                    f"{path} holds {part} weights, which would be lost: give {flag} as that run did, or add "
                    "--finetune to start from it"
                )
        compare_with_flags(
            checkpoint, path, self.config, checkpoint["data"]["seed"], ignore=("vq_ckpt", "finetune")
        )
        self.load_weights(path)
        try:
            self.optimizer.load_state_dict(checkpoint["optimizer"])
        except ValueError as error:
            raise UserError(f"{path} was trained with another optimizer: {error}") from error
        if self.disc_optimizer is not None:
            self.disc_optimizer.load_state_dict(checkpoint["optimizer_disc"])
        self.unused_counts.counts.copy_(checkpoint["code_counts"])
        if scale := checkpoint.get("scaler"):
            self.scaler.load_state_dict(scale)
        elif self.scaler.is_enabled():
            log.warning("%s holds no loss scale: it is sought anew, and the first steps may be skipped", path)
        self.step = checkpoint["steps"]
        self.num_skipped = checkpoint.get("num_skipped", 0)  # older checkpoints lack these
        self.bad_images = checkpoint.get("bad_images", [])
        return checkpoint["data"]
