"""What the tokenizer is trained on: pixels and a discriminator (the perceptual distance is lpips.py).

Weights and losses follow VQGAN (arXiv 2012.09841) as LlamaGen (arXiv 2406.06525) uses it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gradient_l1(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring-pixel differences; keeps edges sharp at little cost.

    Args:
      reconstruction, images: (B, 3, H, W).
    """
    error = reconstruction - images
    across = (error[..., :, 1:] - error[..., :, :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return across + down


def psnr(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB of (B, 3, H, W) pairs in [-1, 1], reconstructions clamped."""
    error = (reconstruction.float().clamp(-1, 1) - images.float()) / 2
    return -10 * torch.log10(error.square().mean(dim=(1, 2, 3)).clamp_min(1e-10))


class PatchDiscriminator(nn.Sequential):
    """PatchGAN (Isola et al., arXiv 1611.07004): (B, 3, H, W) -> (B, 1, H/8 - 2, W/8 - 2) logits."""

    def __init__(self, width: int = 64) -> None:
        widths = (width, 2 * width, 4 * width, 8 * width)
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for before, after, stride in zip(widths, widths[1:], (2, 2, 1), strict=False):
            conv = nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Pushes logits, of any shape, of images above 1 and of reconstructions below -1; a scalar."""
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())


def hinge_generator_loss(fake_logits: Tensor) -> Tensor:
    """Pushes logits, of any shape, of reconstructions up; a scalar."""
    return -fake_logits.mean()


def logistic_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Cross-entropy of telling images from reconstructions by logits (Goodfellow et al., arXiv 1406.2661)."""
    return 0.5 * (F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean())


def logistic_generator_loss(fake_logits: Tensor) -> Tensor:
    """Cross-entropy of reconstructions passing as images, the non-saturating form of that paper."""
    return F.softplus(-fake_logits).mean()


# By their published names. For the discriminator the last two differ in name only.
DISCRIMINATOR_LOSSES = {
    "hinge": hinge_discriminator_loss,
    "vanilla": logistic_discriminator_loss,
    "non-saturating": logistic_discriminator_loss,
}
GENERATOR_LOSSES = {"hinge": hinge_generator_loss, "non-saturating": logistic_generator_loss}
