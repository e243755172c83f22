"""The optimizer step of tokenizer training: losses, discriminator, codebook upkeep, running metrics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.devices import autocast
from runtime.distributed import Distributed
from runtime.optim import Optimizers, lr_factor
from runtime.sharding.tensors import sharded_like, whole_tensor
from runtime.training.meter import Means
from runtime.training.parallel import exchanging, parallel
from tokenizer.tokenizer_image.codebook import entropy_loss, reseed_unused, spherical_kmeans
from tokenizer.tokenizer_image.losses import DISCRIMINATOR_LOSSES, GENERATOR_LOSSES, gradient_l1, psnr
from tokenizer.tokenizer_image.lpips import LPIPS
from tokenizer.tokenizer_image.vq_config import VQTrainConfig
from tokenizer.tokenizer_image.vq_model import VQModel, VQOutput
from tokenizer.tokenizer_image.vq_state import VQTrainState


class _Pass(NamedTuple):
    """What one micro-batch leaves: (B, 3, S, S) images, (B, N) codes, (B, E, h, w) latents, numbers."""

    reconstruction: Tensor
    ids: Tensor
    unit_latents: Tensor
    numbers: dict[str, Tensor]


class _BothSides(nn.Module):
    """Judges images and reconstructions apart, in the one forward pass that DDP wants.

    In one batch they would share BatchNorm's statistics, which the tokenizer's step does not have.
    """

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, images: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of (B, 3, S, S) images and of as many reconstructions."""
        return self.discriminator(images), self.discriminator(reconstruction)


class Trainer:
    """One optimizer step at a time."""

    def __init__(self, config: VQTrainConfig, state: VQTrainState, ranks: Distributed) -> None:
        self.config, self.state, self.ranks = config, state, ranks
        sharded = state.shown is not None
        self.model = state.model if sharded else parallel(state.model, ranks, broadcast_buffers=True)
        # Small, and called in both networks' steps: every rank has all of it.
        self.both_sides = state.discriminator and parallel(
            _BothSides(state.discriminator), ranks, broadcast_buffers=True
        )
        self.lpips = None
        if config.perceptual_weight:
            self.lpips = LPIPS(*config.lpips_weights()).to(ranks.device)
        self.means = Means(ranks, torch.float32, parts=False)
        self.seen = torch.zeros_like(state.unused_counts.counts)

    def warm_up(self, images: Tensor) -> None:
        """A step that is thrown away: DDP arranges its buckets anew after the first one, and then adds up so.

        Args:
          images: (B, 3, S, S).
        """
        if self.ranks.world_size == 1:
            return
        images = images.to(self.ranks.device, memory_format=torch.channels_last)
        statistics = copy.deepcopy(dict(self.state.discriminator.named_buffers())) if self.both_sides else {}
        with torch.random.fork_rng([self.ranks.device] if self.ranks.device.type == "cuda" else []):
            done = self._tokenizer_pass(images, 1, adversarial=False)
            self.model.zero_grad()
            if self.both_sides is not None:
                self._discriminator_pass(images, done.reconstruction, 1)
                self.both_sides.zero_grad()
                self.state.discriminator.load_state_dict(statistics, strict=False)

    def autocast(self) -> torch.autocast:
        return autocast(self.ranks.device, self.config.mixed_precision)

    def train_step(self, micro_batches: Sequence[Tensor]) -> dict[str, Tensor]:
        """One step of the tokenizer and, once it takes part, one of the discriminator.

        Args:
          micro_batches: (B, 3, S, S) each, of one size; gradients add up over them.
        Returns:
          The gradient's norm by network; where it is not finite, that network's weights stay as they were.
        """
        config, state = self.config, self.state
        factor = lr_factor(state.step, config.steps, config.lr_schedule, warmup_steps=config.warmup_steps)
        if config.dropout_p:  # from the step alone, so that a resumed run draws the same
            torch.manual_seed((config.global_seed * 1_000_003 + state.step) * 1024 + self.ranks.rank)
        adversarial = self.both_sides is not None and state.step >= config.disc_start
        passes = []
        for i, images in enumerate(micro_batches):
            with exchanging(self.model, last=i == len(micro_batches) - 1):
                passes.append(self._tokenizer_pass(images, len(micro_batches), adversarial))
        norms = {"tokenizer": self._step(state.model, state.optimizers, factor)}
        if adversarial:
            for i, (images, done) in enumerate(zip(micro_batches, passes, strict=True)):
                with exchanging(self.both_sides, last=i == len(micro_batches) - 1):
                    loss = self._discriminator_pass(images, done.reconstruction, len(micro_batches))
                done.numbers["discriminator"] = loss
            norms["discriminator"] = self._step(state.discriminator, state.disc_optimizers, factor)
        state.scaler.update()
        state.update_average()
        means = {name: sum(p.numbers[name] for p in passes) / len(passes) for name in passes[0].numbers}
        self.means.add(grad_norm=norms["tokenizer"], **means)
        ids, latents = torch.cat([p.ids for p in passes]), torch.cat([p.unit_latents for p in passes])
        self._count_codes(ids, latents, norms["tokenizer"])
        state.step += 1
        return norms

    def _tokenizer_pass(self, images: Tensor, num_passes: int, adversarial: bool) -> _Pass:
        """Forward and backward through the tokenizer, for 1 / `num_passes` of a step."""
        config, discriminator = self.config, self.state.discriminator
        with self.autocast():
            output = self.model(images, quantize=self._quantized())
            reconstruction = output.reconstruction.float()
            losses = self._losses(output, reconstruction, images)
            if adversarial:
                discriminator.requires_grad_(False)
                logits = discriminator(reconstruction).float()
                discriminator.requires_grad_(True)
                losses["generator"] = config.disc_weight * GENERATOR_LOSSES[config.gen_loss](logits)
        loss = sum(losses.values())
        self.state.scaler.scale(loss / num_passes).backward()
        numbers = {"loss": loss, "psnr": psnr(reconstruction, images).mean(), **losses}
        return _Pass(
            reconstruction.detach(),
            output.ids,
            output.unit_latents.detach(),
            {name: value.detach() for name, value in numbers.items()},
        )

    def _discriminator_pass(self, images: Tensor, reconstruction: Tensor, num_passes: int) -> Tensor:
        """Forward and backward through the discriminator, for 1 / `num_passes` of a step; its loss."""
        with self.autocast():
            real, fake = self.both_sides(images, reconstruction)
        loss = DISCRIMINATOR_LOSSES[self.config.disc_loss](real.float(), fake.float())
        self.state.scaler.scale(loss / num_passes).backward()
        return loss.detach()

    def _quantized(self) -> bool:
        return self.state.step >= self.config.quantize_after

    def _losses(self, output: VQOutput, reconstruction: Tensor, images: Tensor) -> dict[str, Tensor]:
        config = self.config
        # Before quantisation starts, the codebook still takes part (times 0): DDP expects every gradient.
        weight = config.codebook_weight * self._quantized()
        pixel_error = F.l1_loss if config.reconstruction_loss == "l1" else F.mse_loss
        losses = {
            "reconstruction": config.reconstruction_weight * pixel_error(reconstruction, images),
            "codebook": weight * output.codebook_loss,
            "commitment": weight * config.commit_loss_beta * output.commitment_loss,
        }
        if config.entropy_loss_ratio:
            unit = output.unit_latents.movedim(1, -1).flatten(0, 2)
            entropy = entropy_loss(unit, self.state.model.quantize.codebook())
            losses["entropy"] = config.entropy_loss_ratio * self._quantized() * entropy
        if config.l1_weight:
            losses["l1"] = config.l1_weight * F.l1_loss(reconstruction, images)
        if config.gradient_weight:
            losses["gradient"] = config.gradient_weight * gradient_l1(reconstruction, images)
        if self.lpips is not None:
            losses["perceptual"] = config.perceptual_weight * self.lpips(images, reconstruction).mean()
        return losses

    def _step(self, module: nn.Module, optimizer: Optimizers, factor: float) -> Tensor:
        scaler = self.state.scaler
        norm = optimizer.clip(module, self.config.max_grad_norm, scaler)
        optimizer.scale_lr(factor)
        optimizer.step(scaler, skip=~torch.isfinite(norm))
        optimizer.zero_grad()
        return norm

    @torch.no_grad()
    def _count_codes(self, ids: Tensor, unit_latents: Tensor, norm: Tensor) -> None:
        """Counts the codes of a step, and now and then replaces those that are not used.

        Not where the gradient's norm is not finite: the latents may be no numbers either.
        """
        config, counts = self.config, self.state.unused_counts
        self.seen += torch.bincount(ids.flatten(), minlength=len(self.seen))
        if not (self._quantized() and config.reseed_every > 0):
            return
        counts.add(ids)
        done = self.state.step + 1 - config.quantize_after
        if done % config.reseed_every == 0:
            self.ranks.all_reduce_sum(counts.counts)
            if self.state.step < config.reseed_until * config.steps and torch.isfinite(norm):
                latents = unit_latents.movedim(1, -1).flatten(0, 2)
                self._replace_codebook(
                    lambda codebook, generator: reseed_unused(codebook, counts.counts, latents, generator)
                )
            counts.reset()

    @torch.no_grad()
    def start_codes(self, images: Tensor) -> None:
        """Puts the codes where k-means finds the latents of (n, 3, S, S) images."""
        with self.state.whole_model() as model:
            unit = torch.cat([self._latents(model, batch) for batch in images.split(32)])
        self._replace_codebook(
            lambda codebook, generator: codebook.copy_(spherical_kmeans(unit, len(codebook), generator))
        )

    def _latents(self, model: VQModel, images: Tensor) -> Tensor:
        with self.autocast():
            z = model.encode(images.to(self.ranks.device))
        return F.normalize(z.float(), dim=1).movedim(1, -1).flatten(0, 2)

    def _replace_codebook(self, change: Callable[[Tensor, torch.Generator], object]) -> None:
        """Calls `change(codebook, generator)` on rank 0 and copies the result to all ranks."""
        weight = self.state.model.quantize.embedding.weight.data
        codebook = whole_tensor(weight)
        # Drawn from the step alone, so that a resumed run draws the same.
        generator = torch.Generator().manual_seed(self.config.global_seed * 1_000_003 + self.state.step)
        if self.ranks.is_main:
            change(codebook, generator)
        else:
            codebook.zero_()
        self.ranks.all_reduce_sum(codebook)
        weight.copy_(sharded_like(weight, codebook))
        if self.state.ema is not None:
            self.state.ema.module.quantize.embedding.weight.copy_(weight)

    def read_metrics(self) -> dict[str, float]:
        """Means since the last call, and the share of the codebook used since then."""
        seen = self.ranks.all_reduce_sum(self.seen)
        usage = (seen > 0).float().mean().item()
        self.seen = torch.zeros_like(seen)
        means = {name: round(value, 6) for name, value in self.means.read().items()}
        return {**means, "codebook_usage": round(usage, 4)}
