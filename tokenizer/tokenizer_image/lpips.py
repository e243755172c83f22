"""LPIPS: how different two images look to a VGG16 (Zhang et al., arXiv 1801.03924, version 0.1).

lpips = load_lpips(vgg_path, lpips_path, device)      # local files; None looks in the usual places
lpips(images, others)          # (B,), one distance a pair
lpips.spatial(images, others)  # (B, 1, H, W), the same by place

The packages that have it fetch VGG's weights themselves; here they come from local files, for a metric and
for the tokenizer's training loss alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.checkpoint import load_checkpoint
from runtime.errors import UserError
from tokenizer.tokenizer_image.lpips_files import find_lpips_weights

_SMALLEST_SIDE = 16  # four poolings


class LPIPS(nn.Module):
    """Learned perceptual distance over VGG16, frozen.

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
        return sum(distance.mean(dim=(1, 2, 3)) for distance in self._distances(images, others))

    def spatial(self, images: Tensor, others: Tensor) -> Tensor:
        """Distance around each pixel of (B, 3, H, W) pairs in [-1, 1]; (B, 1, H, W).

        The stages' maps are enlarged bilinearly, as the reference implementation's spatial mode does.
        """
        size = images.shape[-2:]
        return sum(
            F.interpolate(distance, size, mode="bilinear", align_corners=False)
            for distance in self._distances(images, others)
        )

    def _distances(self, images: Tensor, others: Tensor) -> Iterator[Tensor]:
        """The weighted squared difference of each stage's unit features: (B, 1, H/2^i, W/2^i)."""
        if min(images.shape[-2:]) < _SMALLEST_SIDE:
            height, width = images.shape[-2:]
            raise UserError(
                f"LPIPS needs images of {_SMALLEST_SIDE} pixels a side or more, got {width}x{height}"
            )
        x = (torch.cat([images, others]) - self.shift) / self.scale
        for stage, weight in zip(self.stages, self.linear, strict=True):
            x = stage(x)
            # Of the ways to write a norm, this one has a finite gradient where all features are zero.
            unit = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)
            first, second = unit.chunk(2)
            yield ((first - second).square() * weight).sum(dim=1, keepdim=True)


def load_lpips(
    vgg_path: str | Path | None = None,
    lpips_path: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> LPIPS:
    """Loads LPIPS from local files; see `find_lpips_weights`."""
    return LPIPS(*find_lpips_weights(vgg_path, lpips_path)).to(device)


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
