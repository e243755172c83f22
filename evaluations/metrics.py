"""Image metrics of one pair, and their mean over pairs.

A metric is an entry of `METRICS`: a name, what it needs beyond the two images, and a function of `PairImages`
that returns one or several named numbers. Metrics that hold weights (CLIP-I, DINO, CLIP-T, LPIPS) join the
same way: a `Metric` whose `measure` closes over the loaded model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.errors import UserError

# Identical images would have an infinite PSNR, which no mean survives.
PSNR_CAP = 100.0
_SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2

_NEEDS = {
    "region": "the regions that the edits were allowed to change (--regions-path)",
    "caption": "local descriptions (--caption_path local_descriptions.json)",
}
_AWAITED = {
    "clip-i": "CLIP ViT-B/32",
    "clip-t": "CLIP ViT-B/32",
    "dino": "DINO ViT-S/16",
    "lpips": "LPIPS",
}


@dataclass(frozen=True)
class EditStep:
    """One edit at its own resolution: (H, W, 3) uint8 after and before, (H, W) bool where it may change."""

    generated: np.ndarray
    input: np.ndarray
    region: np.ndarray


@dataclass(frozen=True)
class PairImages:
    """What a metric may look at.

    `generated` (resized to the target's size) and `target` are (3, H, W) float32 in [0, 1]; `region` is
    (H, W) bool, True where the edits were allowed to change something; `steps` are the edits that led to
    `generated`. Region and steps are empty when no regions were given.
    """

    generated: Tensor
    target: Tensor
    region: Tensor | None = None
    steps: tuple[EditStep, ...] = ()
    caption: str | None = None


@dataclass(frozen=True)
class Metric:
    """A named measurement; `measure` returns None for a number that is undefined for the pair."""

    name: str
    measure: Callable[[PairImages], dict[str, float | None]]
    needs: tuple[str, ...] = ()


def to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 to (3, H, W) float32 in [0, 1], contiguous.

    Layout and precision are MagicBrush's: a mean in float64 or over (H, W, 3) is off by 1e-8.
    """
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def l1(generated: Tensor, target: Tensor, where: Tensor | None = None) -> float:
    """Mean absolute difference over all channels; `where` (H, W) bool restricts it to some pixels."""
    return _mean((generated - target).abs(), where)


def l2(generated: Tensor, target: Tensor, where: Tensor | None = None) -> float:
    """Mean squared difference over all channels; `where` (H, W) bool restricts it to some pixels."""
    return _mean((generated - target).square(), where)


def psnr(generated: Tensor, target: Tensor, where: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio -10 log10(L2) in dB for values in [0, 1], at most `PSNR_CAP`."""
    error = l2(generated, target, where)
    return PSNR_CAP if error <= 10 ** (-PSNR_CAP / 10) else -10 * math.log10(error)


def ssim(generated: Tensor, target: Tensor, where: Tensor | None = None) -> float:
    """Structural similarity (Wang et al. 2004: Gaussian window 11, sigma 1.5, K1 0.01, K2 0.03).

    The mean of the map over pixels and channels, borders reflected. With `where`, the mean over those pixels;
    the windows of pixels near the border of the region see its other side too.
    """
    return _mean(ssim_map(generated, target), where)


def ssim_map(generated: Tensor, target: Tensor) -> Tensor:
    """The structural similarity around every pixel, per channel: (3, H, W) float64 in [-1, 1]."""
    offsets = torch.arange(_SSIM_WINDOW, dtype=torch.float64) - _SSIM_WINDOW // 2
    window = torch.exp(-offsets.square() / (2 * _SSIM_SIGMA**2))
    window /= window.sum()
    x, y = (image.double()[:, None] for image in (generated, target))
    mean_x, mean_y = _blur(x, window), _blur(y, window)
    var_x = _blur(x * x, window) - mean_x.square()
    var_y = _blur(y * y, window) - mean_y.square()
    covariance = _blur(x * y, window) - mean_x * mean_y
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


def select_metrics(names: Sequence[str], provided: Collection[str]) -> list[Metric]:
    """Looks up metrics by name.

    Args:
      names: metric names, e.g. ["l1", "l2"].
      provided: the needs this run can meet, out of "region" and "caption".
    Raises:
      UserError: for an unknown name, one whose weights are not supported yet, or one whose need is not met.
    """
    for name in names:
        available = f"available: {', '.join(METRICS)}"
        if name in _AWAITED:
            raise UserError(
                f"metric {name!r} is not available yet: it needs {_AWAITED[name]} weights; {available}"
            )
        if name not in METRICS:
            raise UserError(f"unknown metric {name!r}; {available}")
        for need in METRICS[name].needs:
            if need not in provided:
                raise UserError(f"metric {name!r} needs {_NEEDS[need]}")
    return [METRICS[name] for name in dict.fromkeys(names)]


def measure_pair(metrics: Sequence[Metric], images: PairImages, pair_name: str) -> dict[str, float | None]:
    """All numbers of one pair; a NaN or infinite one is a `UserError` naming metric and pair."""
    values: dict[str, float | None] = {}
    for metric in metrics:
        values |= metric.measure(images)
    for key, value in values.items():
        if value is not None and not math.isfinite(value):
            raise UserError(f"{key} of {pair_name} is {value}; look at its images")
    return values


def mean_over_pairs(measurements: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Means over the pairs where a number is defined, None where it is for no pair.

    The sum is exact before rounding (`math.fsum`), so that the order of the pairs cannot matter.
    """
    means = {}
    for key in dict.fromkeys(key for measured in measurements for key in measured):
        values = [measured[key] for measured in measurements if measured.get(key) is not None]
        means[key] = math.fsum(values) / len(values) if values else None
    return means


def _measure_region(images: PairImages) -> dict[str, float | None]:
    values = {}
    for side, where in (("inside", images.region), ("outside", ~images.region)):
        for name, function in (("l1", l1), ("l2", l2), ("psnr", psnr), ("ssim", ssim)):
            defined = where.any()
            values[f"{side}_{name}"] = function(images.generated, images.target, where) if defined else None
    return values


def _measure_unchanged(images: PairImages) -> dict[str, float | None]:
    shares = [share for step in images.steps if (share := unchanged_pixel_share(step)) is not None]
    return {"unchanged_pixel_share": math.fsum(shares) / len(shares) if shares else None}


def _blur(images: Tensor, window: Tensor) -> Tensor:
    """Convolves (C, 1, H, W) with the separable `window`; small images are replicated, not reflected."""
    half = len(window) // 2
    mode = "reflect" if min(images.shape[-2:]) > half else "replicate"
    padded = F.pad(images, (half, half, half, half), mode=mode)
    return F.conv2d(F.conv2d(padded, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))


def _mean(values: Tensor, where: Tensor | None) -> float:
    return (values if where is None else values[:, where]).mean().item()


METRICS = {
    metric.name: metric
    for metric in (
        Metric("l1", lambda images: {"l1": l1(images.generated, images.target)}),
        Metric("l2", lambda images: {"l2": l2(images.generated, images.target)}),
        Metric("psnr", lambda images: {"psnr": psnr(images.generated, images.target)}),
        Metric("ssim", lambda images: {"ssim": ssim(images.generated, images.target)}),
        Metric("region", _measure_region, needs=("region",)),
        Metric("unchanged", _measure_unchanged, needs=("region",)),
    )
}
