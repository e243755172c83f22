"""What the tokenizer is trained on: pixels, a perceptual distance, and a discriminator.

Weights and hinge losses follow VQGAN (arXiv 2012.09841) as LlamaGen (arXiv 2406.06525) uses it.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.checkpoint import load_checkpoint
from runtime.errors import UserError


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
    """Pushes logits of images above 1 and of reconstructions below -1."""
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())


def hinge_generator_loss(fake_logits: Tensor) -> Tensor:
    """Pushes logits of reconstructions up."""
    return -fake_logits.mean()


class LPIPS(nn.Module):
    """Learned perceptual distance (Zhang et al., arXiv 1801.03924, version 0.1, VGG16), frozen.

    Args:
      vgg_path: torchvision's VGG16 weights (`features.N.weight`, ...).
      lpips_path: the five linear layers (`lin0.model.1.weight` ... `lin4.model.1.weight`).
    """

    # Each stage ends at the activation that is compared; all but the first start with pooling.
    STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

    def __init__(self, vgg_path: str | Path, lpips_path: str | Path) -> None:
        super().__init__()
        # ImageNet's mean and deviation, for images in [-1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.stages = nn.ModuleList()
        layers, channels = [], 3
        for i, widths in enumerate(self.STAGES):
            stage: list[nn.Module] = [nn.MaxPool2d(2)] if i else []
            for width in widths:
                stage += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers += stage
            self.stages.append(nn.Sequential(*stage))
        vgg = _read(vgg_path, "torchvision's VGG16")
        for i, layer in enumerate(layers):
            for name, parameter in layer.named_parameters():
                _fill(parameter, vgg, f"features.{i}.{name}", vgg_path)
        weights = _read(lpips_path, "LPIPS's linear layers")
        self.linear = nn.ParameterList(torch.empty(1, widths[-1], 1, 1) for widths in self.STAGES)
        for i, parameter in enumerate(self.linear):
            _fill(parameter, weights, f"lin{i}.model.1.weight", lpips_path)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Distance of each pair of (B, 3, H, W) images in [-1, 1]; (B,)."""
        x = (torch.cat([images, others]) - self.shift) / self.scale
        distance = 0.0
        for stage, weight in zip(self.stages, self.linear, strict=True):
            x = stage(x)
            unit = x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
            first, second = unit.chunk(2)
            distance = distance + ((first - second).square() * weight).sum(dim=1).mean(dim=(1, 2))
        return distance


def _read(path: str | Path, what: str) -> dict[str, Tensor]:
    try:
        return load_checkpoint(path)["model"]
    except UserError as error:
        raise UserError(f"{error} (wanted: {what})") from None


@torch.no_grad()
def _fill(parameter: nn.Parameter, weights: dict[str, Tensor], name: str, path: str | Path) -> None:
    if name not in weights or weights[name].shape != parameter.shape:
        found = tuple(weights[name].shape) if name in weights else "nothing"
        raise UserError(f"{path}: {name} should be {tuple(parameter.shape)}, found {found}")
    parameter.copy_(weights[name])
