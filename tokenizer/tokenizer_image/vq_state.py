"""Everything that a tokenizer training run changes, and how it is saved and resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from runtime.checkpoint import load_checkpoint, load_weights
from runtime.containers import unwrap
from runtime.devices import loss_scaler
from runtime.distributed import Distributed
from runtime.optim import build_optimizer
from runtime.training.checkpoints import Checkpoints, checkpoint_kind
from runtime.training.ema import AveragedWeights
from runtime.training.parallel import Parts, gathered, hollow_copy, parallel, sharding_of
from runtime.training.resume import ResumeFile
from runtime.training.state import RunState
from tokenizer.tokenizer_image.codebook import CodeCounts
from tokenizer.tokenizer_image.losses import PatchDiscriminator
from tokenizer.tokenizer_image.vq_config import VQTrainConfig
from tokenizer.tokenizer_image.vq_model import VQModel, build_vq_model, require_same_arithmetic


class VQTrainState(RunState):
    """Weights, optimizers, averages, code counts and the step of a run.

    Attributes:
      bad_images: what is wrong with the unreadable images met so far, on all ranks.
    """

    model: VQModel

    def __init__(self, config: VQTrainConfig, ranks: Distributed) -> None:
        torch.manual_seed(config.global_seed)
        device = ranks.device
        self.config = config
        self.device = device
        model = _new_model(config, device)
        sharding = sharding_of(config.parallel, config.shard_size, config.mixed_precision, ranks)
        shown = None
        if sharding is not None:
            model.to(memory_format=torch.contiguous_format)  # the only one that can be sharded
            shown = hollow_copy(model, device)
            parallel(model, ranks, sharding, _parts(model), compiled=config.compile)
        elif config.compile:
            model.compile()
        self.discriminator = PatchDiscriminator().to(device) if config.disc_weight else None
        settings = {
            "lr": config.lr,
            "weight_decay": config.weight_decay,
            "betas": (config.beta1, config.beta2),
        }
        super().__init__(
            model,
            build_optimizer(model, config.optimizer, muon_lr=config.muon_lr, **settings),
            loss_scaler(device, config.mixed_precision),
            AveragedWeights(model, config.ema_decay, counts_initial=True) if config.ema else None,
            shown=shown,
        )
        kind = checkpoint_kind(config.checkpoint, config.parallel, ranks)
        self.checkpoints = Checkpoints(config.results_dir, config.max_checkpoints, ranks, kind)
        self.disc_optimizers = self.discriminator and build_optimizer(self.discriminator, "adamw", **settings)
        self.unused_counts = CodeCounts(model.config.codebook_size, device)
        self.bad_images: list[str] = []

    @contextmanager
    def final_model(self) -> Iterator[VQModel]:
        """The weights to use after training, for a while; if they are sharded, all ranks must enter this."""
        if self.shown is not None:
            with self.averaged_weights():
                yield self.shown
        else:
            yield self.model if self.ema is None else self.ema.module

    @contextmanager
    def whole_model(self) -> Iterator[VQModel]:
        """The weights of now, for a while; if they are sharded, all ranks must enter this."""
        if self.shown is None:
            yield self.model
            return
        with gathered(self.model, self.shown):
            yield self.shown

    def checkpoint(self, data: dict[str, int]) -> dict[str, Any]:
        """A checkpoint with the published keys; `args` also holds what `load_vq_model` rebuilds from.

        Args:
          data: the state of the batch sampler.
        """
        args = dataclasses.asdict(self.config) | {"vq_config": dataclasses.asdict(self.model.config)}
        content = self.content(args) | {
            "data": data,
            "code_counts": self.unused_counts.counts,
            "bad_images": self.bad_images,
        }
        if self.discriminator is not None:
            content["discriminator"] = self.discriminator.state_dict()
            content["optimizer_disc"] = self.disc_optimizers.state_dict()
        return content

    def load_weights(self, path: str | Path) -> None:
        """Starts from the weights of any tokenizer checkpoint of this size."""
        self._take_weights(load_checkpoint(path, self.pattern()), path)

    def _take_weights(self, checkpoint: dict[str, Any], path: str | Path) -> None:
        require_same_arithmetic(self.model.config, checkpoint, path)
        load_weights(self.model, checkpoint["model"], path)
        if self.ema is not None:
            load_weights(self.ema.module, checkpoint.get("ema", checkpoint["model"]), path)
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
        file = ResumeFile(path, "add --finetune to start from it", self.pattern())
        wanted = {"data", "code_counts", "optimizer"}
        wanted |= {"ema"} if self.ema is not None else set()
        wanted |= {"discriminator", "optimizer_disc"} if self.discriminator is not None else set()
        file.require_parts(sorted(wanted))
        file.require_no_loss("ema", self.ema, "ema", "--ema")
        file.require_no_loss("discriminator", self.discriminator, "discriminator", "a --disc-weight above 0")
        data = file.content["data"]
        file.compare_flags(self.config, data["seed"], ignore=("vq_ckpt", "finetune"))
        self._take_weights(file.content, path)
        file.restore(self)
        if self.disc_optimizers is not None:
            file.restore_optimizer(self.disc_optimizers, "optimizer_disc")
        self.unused_counts.counts.copy_(file.content["code_counts"])
        self.bad_images = file.content.get("bad_images", [])  # older checkpoints lack them
        return data


def _parts(model: VQModel) -> Parts:
    """What is gathered at a time: a level, or a block in the middle."""
    encoder, decoder = model.encoder, model.decoder
    levels = [*encoder.conv_blocks, *encoder.mid, *decoder.mid, *decoder.conv_blocks]
    return Parts([], [level for level in levels if any(True for _ in level.parameters())])


def _new_model(config: VQTrainConfig, device: torch.device) -> VQModel:
    overrides = {
        name: value
        for name in ("codebook_size", "codebook_embed_dim", "dropout_p")
        if (value := getattr(config, name)) is not None
    }
    model = build_vq_model(config.vq_model, **overrides)
    # Convolutions are fastest with channels last, on CPUs in bf16 by half again.
    return model.to(device, memory_format=torch.channels_last)
