"""What the published evaluators of PIE-Bench and of BrushBench (BrushNet's) measure.

PIE-Bench, by the names of its columns: pixels of the edited part are set to black in both images, and the
whole images are compared: so PSNR, MSE and SSIM count the black pixels too. The region has the outermost
pixels added (see `dataset.testsets.region_sets`).

BrushBench: the squared differences of all three channels over the number of kept pixels, three times the mean
over channels; LPIPS as PIE-Bench's, without the border; CLIP similarity of the whole image.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from evaluations.editing.registry import Metric, PairImages, Values, metric_table
from evaluations.metrics.formulas import PSNR_CAP, cosine, l2, psnr, ssim_map

# Pixels at each side whose windows would reach beyond the image are left out, as torchmetrics did to 1.4.1.
_SSIM_BORDER = 5


def _unedited(images: PairImages) -> tuple[Tensor, Tensor] | None:
    """Both images with the edited part black; None if all of it is edited."""
    kept = ~images.region
    return (images.generated * kept, images.target * kept) if kept.any() else None


def _measure_structure(images: PairImages) -> Values:
    return {"structure_distance": images.networks["structure"].distance(images.generated, images.target)}


def _measure_unedited(images: PairImages) -> Values:
    names = ("psnr_unedit_part", "mse_unedit_part", "ssim_unedit_part")
    pair = _unedited(images)
    if pair is None:
        return dict.fromkeys(names)
    inner = slice(_SSIM_BORDER, -_SSIM_BORDER)
    similarity = ssim_map(*pair)[:, inner, inner].mean().item()
    return dict(zip(names, (psnr(*pair), l2(*pair), similarity), strict=True))


def _measure_lpips(images: PairImages) -> Values:
    pair = _unedited(images)
    distance = None if pair is None else images.networks["lpips-squeeze"].distance(*pair)
    return {"lpips_unedit_part": distance}


def _measure_clip(images: PairImages) -> Values:
    """Similarities with the target prompt, in hundredths: of the whole result and of its edited part, the
    rest black; and of the source with its own prompt, as what the set starts from."""
    features = images.features["clip-l14"]
    values: Values = dict.fromkeys(
        (
            "clip_similarity_source_image",
            "clip_similarity_target_image",
            "clip_similarity_target_image_edit_part",
        )
    )
    if features.input_caption is not None:
        values["clip_similarity_source_image"] = _hundredths(features.source, features.input_caption)
    if features.caption is not None:
        values["clip_similarity_target_image"] = _hundredths(features.generated, features.caption)
        clip = images.networks["clip-l14"]
        part = (images.generated * images.region * 255).round().byte().permute(1, 2, 0)
        (seen,) = clip.embed_images(clip.prepare(np.ascontiguousarray(part.numpy()))[None])
        values["clip_similarity_target_image_edit_part"] = _hundredths(seen, features.caption)
    return values


def _measure_kept(images: PairImages) -> Values:
    kept = ~images.region
    if not kept.any():
        return {"psnr_kept": None, "mse_kept": None}
    channels = len(images.generated)
    error = channels * l2(images.generated, images.target, kept)
    decibels = PSNR_CAP if error <= 10 ** (-PSNR_CAP / 10) else -10 * math.log10(error)
    return {"psnr_kept": decibels, "mse_kept": error}


def _measure_kept_lpips(images: PairImages) -> Values:
    (distance,) = _measure_lpips(images).values()
    return {"lpips_kept": distance}


def _measure_caption(images: PairImages) -> Values:
    features = images.features["clip-l14"]
    similarity = None if features.caption is None else _hundredths(features.generated, features.caption)
    return {"clip_similarity": similarity}


def _hundredths(image: Tensor, text: Tensor) -> float:
    return max(100 * cosine(image, text), 0.0)


PIE_METRICS = metric_table(
    Metric("structure", _measure_structure, needs=("structure",)),
    Metric("unedited", _measure_unedited),
    Metric("lpips", _measure_lpips, needs=("lpips-squeeze",)),
    Metric("clip", _measure_clip, needs=("clip-l14",)),
)
BRUSH_METRICS = metric_table(
    Metric("kept", _measure_kept),
    Metric("lpips", _measure_kept_lpips, needs=("lpips-squeeze",)),
    Metric("clip", _measure_caption, needs=("clip-l14",)),
)
BRUSH_NOT_COMPUTED = dict.fromkeys(
    ("Image Reward", "HPS V2.1", "Aesthetic Score"),
    "a network of its own; BrushNet's examples/brushnet/evaluate_brushnet.py computes it",
)
"""Columns of BrushNet's evaluator that are no metrics of ours."""
