"""The optimizer step of tokenizer training: losses, discriminator, codebook upkeep, running metrics."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from runtime.distributed import Distributed
from runtime.optim import Optimizers, lr_factor
from runtime.precision import autocast
from tokenizer.tokenizer_image.codebook import reseed_unused, spherical_kmeans
from tokenizer.tokenizer_image.losses import (
    LPIPS,
    gradient_l1,
    hinge_discriminator_loss,
    hinge_generator_loss,
    psnr,
)
from tokenizer.tokenizer_image.vq_config import VQTrainConfig
from tokenizer.tokenizer_image.vq_model import VQModel, VQOutput
from tokenizer.tokenizer_image.vq_state import VQTrainState


class Averages:
    """Means of some numbers since the last reading, without waiting for the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float()
        self.count += 1

    def read(self, dist: Distributed) -> dict[str, float]:
        """The means over steps and ranks; starts again."""
        stacked = torch.stack(list(self.sums.values())) / (self.count * dist.world_size)
        means = dict(zip(self.sums, dist.all_reduce_sum(stacked).tolist(), strict=True))
        self.sums, self.count = {}, 0
        return {name: round(value, 6) for name, value in means.items()}


class Trainer:
    """One optimizer step at a time."""

    def __init__(self, config: VQTrainConfig, state: VQTrainState, dist: Distributed) -> None:
        self.config, self.state, self.dist = config, state, dist
        self.model, self.discriminator = self._parallel(state.model), self._parallel(state.discriminator)
        self.lpips = None
        if config.perceptual_weight:
            self.lpips = LPIPS(config.vgg_ckpt, config.lpips_ckpt).to(dist.device)
        self.scaler = torch.amp.GradScaler(dist.device.type, enabled=config.mixed_precision == "fp16")
        self.averages = Averages()
        self.seen = torch.zeros_like(state.unused_counts.counts)

    def _parallel(self, module: nn.Module | None) -> nn.Module | None:
        if module is None or self.dist.world_size == 1:
            return module
        return DistributedDataParallel(module, find_unused_parameters=False)

    def autocast(self) -> torch.autocast:
        return autocast(self.dist.device, self.config.mixed_precision)

    def train_step(self, images: Tensor) -> None:
        """One step of the tokenizer and, once it takes part, one of the discriminator."""
        config, state = self.config, self.state
        factor = lr_factor(state.step, config.steps, config.lr_schedule, warmup_steps=config.warmup_steps)
        quantized = state.step >= config.quantize_after
        adversarial = self.discriminator is not None and state.step >= config.disc_start
        with self.autocast():
            output = self.model(images, quantize=quantized)
            reconstruction = output.reconstruction.float()
            losses = self._losses(output, reconstruction, images)
            if adversarial:
                self.discriminator.requires_grad_(False)
                losses["generator"] = config.disc_weight * hinge_generator_loss(
                    self.discriminator(reconstruction)
                )
                self.discriminator.requires_grad_(True)
        loss = sum(losses.values())
        self.scaler.scale(loss).backward()
        norm = self._step(state.model, state.optimizer, factor)
        if adversarial:
            with self.autocast():
                real, fake = self.discriminator(torch.cat([images, reconstruction.detach()])).chunk(2)
                disc_loss = hinge_discriminator_loss(real.float(), fake.float())
            self.scaler.scale(disc_loss).backward()
            self._step(state.discriminator, state.disc_optimizer, factor)
            losses["discriminator"] = disc_loss
        self.scaler.update()
        state.update_average()
        self.averages.add(loss=loss, psnr=psnr(reconstruction, images).mean(), grad_norm=norm, **losses)
        self._count_codes(output, quantized)
        state.step += 1

    def _losses(self, output: VQOutput, reconstruction: Tensor, images: Tensor) -> dict[str, Tensor]:
        config = self.config
        # Before quantisation starts, the codebook still takes part (times 0): DDP expects every gradient.
        weight = config.codebook_weight * (self.state.step >= config.quantize_after)
        losses = {
            "reconstruction": config.reconstruction_weight * F.mse_loss(reconstruction, images),
            "codebook": weight * output.codebook_loss,
            "commitment": weight * config.commit_loss_beta * output.commitment_loss,
        }
        if config.l1_weight:
            losses["l1"] = config.l1_weight * F.l1_loss(reconstruction, images)
        if config.gradient_weight:
            losses["gradient"] = config.gradient_weight * gradient_l1(reconstruction, images)
        if self.lpips is not None:
            losses["perceptual"] = config.perceptual_weight * self.lpips(images, reconstruction).mean()
        return losses

    def _step(self, module: nn.Module, optimizer: Optimizers, factor: float) -> Tensor:
        norm = optimizer.clip(module, self.config.max_grad_norm, self.scaler)
        optimizer.scale_lr(factor)
        optimizer.step(self.scaler)
        optimizer.zero_grad()
        return norm

    @torch.no_grad()
    def _count_codes(self, output: VQOutput, quantized: bool) -> None:
        """Counts the codes of a step, and now and then replaces those that are not used."""
        config, counts = self.config, self.state.unused_counts
        self.seen += torch.bincount(output.ids.flatten(), minlength=len(self.seen))
        if not (quantized and config.reseed_every):
            return
        counts.add(output.ids)
        done = self.state.step + 1 - config.quantize_after
        if done % config.reseed_every == 0:
            self.dist.all_reduce_sum(counts.counts)
            if self.state.step < config.reseed_until * config.steps:
                latents = output.unit_latents.movedim(1, -1).flatten(0, 2)
                self._replace_codebook(
                    lambda codebook, generator: reseed_unused(codebook, counts.counts, latents, generator)
                )
            counts.reset()

    @torch.no_grad()
    def start_codes(self, images: Tensor) -> None:
        """Puts the codes where k-means finds the latents of (n, 3, S, S) images."""
        model = self.state.model
        unit = torch.cat([self._latents(model, batch) for batch in images.split(32)])
        self._replace_codebook(
            lambda codebook, generator: codebook.copy_(spherical_kmeans(unit, len(codebook), generator))
        )

    def _latents(self, model: VQModel, images: Tensor) -> Tensor:
        with self.autocast():
            z = model.encode(images.to(self.dist.device))
        return F.normalize(z.float(), dim=1).movedim(1, -1).flatten(0, 2)

    def _replace_codebook(self, change: Callable[[Tensor, torch.Generator], object]) -> None:
        """Calls `change(codebook, generator)` on rank 0 and copies the result to all ranks."""
        codebook = self.state.model.quantize.embedding.weight.data
        # Drawn from the step alone, so that a resumed run draws the same.
        generator = torch.Generator().manual_seed(self.config.global_seed * 1_000_003 + self.state.step)
        if self.dist.is_main:
            change(codebook, generator)
        else:
            codebook.zero_()
        self.dist.all_reduce_sum(codebook)
        if self.state.averaged is not None:
            self.state.averaged.quantize.embedding.weight.copy_(codebook)

    def read_metrics(self) -> dict[str, float]:
        """Means since the last call, and the share of the codebook used since then."""
        seen = self.dist.all_reduce_sum(self.seen)
        usage = (seen > 0).float().mean().item()
        self.seen = torch.zeros_like(seen)
        return {**self.averages.read(self.dist), "codebook_usage": round(usage, 4)}
