"""Formulas: how two images, or two feature vectors, are compared, and means over pairs.

Which of them an evaluator computes, and by which name, is in `evaluations.editing.registry`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import stdtrit  # Student's t
from torch import Tensor

# Identical images would have an infinite PSNR, which no mean survives.
PSNR_CAP = 100.0
_SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2
# Features of equal images from different batches differ by this share of their length at most.
_SAME_FEATURES = 1e-5


@dataclass(frozen=True)
class EditStep:
    """One edit at its own resolution: (H, W, 3) uint8 after and before, (H, W) bool where it may change."""

    generated: np.ndarray
    input: np.ndarray
    region: np.ndarray


def to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 to (3, H, W) float32 in [0, 1], contiguous.

    Layout and precision are MagicBrush's: a mean in float64 or over (H, W, 3) is off by 1e-8.
    """
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def l1(generated: Tensor, target: Tensor, where: Tensor | None = None) -> float:
    """Mean absolute difference over all channels; `where` (H, W) bool restricts it to some pixels."""
    return mean_where((generated - target).abs(), where)


def l2(generated: Tensor, target: Tensor, where: Tensor | None = None) -> float:
    """Mean squared difference over all channels; `where` (H, W) bool restricts it to some pixels."""
    return mean_where((generated - target).square(), where)


def psnr(generated: Tensor, target: Tensor, where: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio -10 log10(L2) in dB for values in [0, 1], at most `PSNR_CAP`."""
    error = l2(generated, target, where)
    return PSNR_CAP if error <= 10 ** (-PSNR_CAP / 10) else -10 * math.log10(error)


def ssim(generated: Tensor, target: Tensor, where: Tensor | None = None) -> float:
    """Structural similarity (Wang et al. 2004: Gaussian window 11, sigma 1.5, K1 0.01, K2 0.03).

    The mean of the map over pixels and channels, borders reflected. With `where`, the mean over those pixels;
    the windows of pixels near the border of the region see its other side too.
    """
    return mean_where(ssim_map(generated, target), where)


def ssim_map(generated: Tensor, target: Tensor) -> Tensor:
    """The structural similarity around every pixel, per channel: (3, H, W) float64 in [-1, 1].

    The same as torchmetrics', which takes 20 times as long in float64 on CPUs and refuses small images.
    """
    offsets = torch.arange(_SSIM_WINDOW, dtype=torch.float64) - _SSIM_WINDOW // 2
    window = torch.exp(-offsets.square() / (2 * _SSIM_SIGMA**2))
    window /= window.sum()
    x, y = generated.double(), target.double()
    moments = torch.cat([x, y, x * x, y * y, x * y])[:, None]  # at once: five small blurs cost more
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _blur(moments, window).chunk(5)
    var_x, var_y = mean_xx - mean_x.square(), mean_yy - mean_y.square()
    covariance = mean_xy - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + _SSIM_C1) * (2 * covariance + _SSIM_C2)
    similarity /= (mean_x.square() + mean_y.square() + _SSIM_C1) * (var_x + var_y + _SSIM_C2)
    return similarity[:, 0]


def unchanged_pixel_share(step: EditStep) -> float | None:
    """Share of the pixels outside the region that are bit for bit the input's; None if nothing is outside.

    An image of another size than its input has kept no pixel: 0.
    """
    assert step.region.shape == step.generated.shape[:2]
    outside = ~step.region
    if not outside.any():
        return None
    if step.generated.shape != step.input.shape:
        return 0.0
    return float((step.generated == step.input).all(axis=-1)[outside].mean())


def mean_where(values: Tensor, where: Tensor | None) -> float:
    """Mean of (C, H, W) `values` over all channels of the pixels that (H, W) bool `where` marks."""
    return (values if where is None else values[:, where]).mean().item()


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two (C,) vectors; NaN if one is zero."""
    a, b = a.double(), b.double()
    return (a @ b / (a.norm() * b.norm())).item()


def direction_cosine(images: tuple[Tensor, Tensor], captions: tuple[Tensor, Tensor]) -> float | None:
    """How far an edit moved the image the way its captions say: cos(after - before, after - before).

    CLIP directional similarity (Gal et al., arXiv 2108.00946), on features as they are given.

    Args:
      images, captions: (before, after), (C,) each.
    Returns:
      None if the two captions are the same to the encoder, for they ask for no direction; else 0 if the two
      images are: nothing moved.
    """
    moved, asked = _step(*images), _step(*captions)
    if asked is None:
        return None
    return 0.0 if moved is None else cosine(moved, asked)


def _step(before: Tensor, after: Tensor) -> Tensor | None:
    """The way between two features; None if they are the same."""
    before, after = before.double(), after.double()
    step = after - before
    # Not of zeros, which are no features: their cosine is NaN.
    return None if step.norm() < _SAME_FEATURES * max(before.norm(), after.norm()) else step


def mean_over_pairs(measurements: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Means over the pairs where a number is defined, None where it is for no pair.

    The sum is exact before rounding (`math.fsum`), so that the order of the pairs cannot matter.
    """
    means = {}
    for key in dict.fromkeys(key for measured in measurements for key in measured):
        values = [measured[key] for measured in measurements if measured.get(key) is not None]
        means[key] = math.fsum(values) / len(values) if values else None
    return means


def half_interval95(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % t-interval of the mean of `values`; None for fewer than two."""
    if len(values) < 2:
        return None
    degrees = len(values) - 1
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / degrees
    return float(stdtrit(degrees, 0.975)) * math.sqrt(variance / len(values))


def _blur(images: Tensor, window: Tensor) -> Tensor:
    """Convolves (C, 1, H, W) with the separable `window`; small images are replicated, not reflected."""
    half = len(window) // 2
    mode = "reflect" if min(images.shape[-2:]) > half else "replicate"
    padded = F.pad(images, (half, half, half, half), mode=mode)
    height, width = images.shape[-2:]
    # Sums of shifted images: three times faster than float64 convolutions on CPUs.
    columns = sum(weight * padded[..., i : i + height, :] for i, weight in enumerate(window))
    return sum(weight * columns[..., i : i + width] for i, weight in enumerate(window))
