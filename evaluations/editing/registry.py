"""What the editing evaluators can measure, by name.

A metric is an entry: a name, what it needs beyond the two images, and a function of `PairImages` that returns
one or several named numbers. Each evaluator has its own table, because the published name `clip-t` stands for
other numbers on MagicBrush than on Emu Edit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from evaluations.flags import WeightFlags
from evaluations.metrics.encoders import NETWORKS, Network, load_network
from evaluations.metrics.formulas import (
    EditStep,
    cosine,
    direction_cosine,
    l1,
    l2,
    mean_where,
    psnr,
    ssim,
    ssim_map,
    unchanged_pixel_share,
)
from runtime.errors import UserError

_NEEDED_FILES = {
    "region": "the regions that the edits were allowed to change (--regions-path)",
    "caption": "captions of the results (--caption_path, with local_descriptions.json for MagicBrush)",
}


@dataclass(frozen=True)
class PairFeatures:
    """One encoder's features of a pair, (C,) each and not normalised; source and captions may be missing."""

    generated: Tensor
    target: Tensor
    source: Tensor | None
    caption: Tensor | None = None
    input_caption: Tensor | None = None


@dataclass(frozen=True)
class PairImages:
    """What a metric may look at.

    `generated` (resized to the target's size) and `target` are (3, H, W) float32 in [0, 1]; `region` is
    (H, W) bool, True where the edits were allowed to change something; `steps` are the edits that led to
    `generated`. Region and steps are empty when no regions were given. `features` is by encoder;
    `networks` are those that the metrics need, for what is no feature of a whole image.
    """

    generated: Tensor
    target: Tensor
    region: Tensor | None = None
    steps: tuple[EditStep, ...] = ()
    features: Mapping[str, PairFeatures] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)


Values = dict[str, float | None]


@dataclass(frozen=True)
class Metric:
    """A named measurement.

    Attributes:
      name: what `--metric` calls it.
      measure: gives its numbers; None is one that is undefined for the pair.
      needs: networks (of `evaluations.metrics.encoders.NETWORKS`) and further inputs ("region", "caption").
    """

    name: str
    measure: Callable[[PairImages], Values]
    needs: tuple[str, ...] = ()


def select_metrics(
    names: str, table: Mapping[str, Metric], provided: Collection[str], add: Sequence[str] = ()
) -> list[Metric]:
    """Looks up comma-separated metric names.

    Args:
      names: such as "l1,l2,clip-i".
      table: the evaluator's metrics.
      provided: the further inputs of this run, out of "region" and "caption".
      add: names to join whether asked for or not.
    Raises:
      UserError: for no name, an unknown one, or one whose further input is not there.
    """
    asked = [name.strip().lower() for name in names.split(",") if name.strip()]
    if not asked:
        raise UserError(f"--metric {names!r} names no metric; for example --metric l1,l2")
    for name in asked:
        if name not in table:
            raise UserError(f"unknown metric {name!r}; available: {', '.join(table)}")
        for need in table[name].needs:
            if need in _NEEDED_FILES and need not in provided:
                raise UserError(f"metric {name!r} needs {_NEEDED_FILES[need]}")
    return [table[name] for name in dict.fromkeys([*asked, *add])]


def load_metric_networks(
    metrics: Sequence[Metric], table: Mapping[str, Metric], flags: WeightFlags, device: object = "cpu"
) -> dict[str, Network]:
    """Loads what the metrics need.

    Raises:
      UserError: weights that are missing or do not fit, with the metrics that run without them.
    """
    networks, problems = {}, {}
    for name in NETWORKS:
        if any(name in metric.needs for metric in metrics):
            try:
                networks[name] = load_network(name, flags, device)
            except UserError as error:
                problems[name] = error
    if problems:
        others = [metric.name for metric in table.values() if not problems.keys() & set(metric.needs)]
        advice = f"metrics that run without: {', '.join(others)}"
        raise UserError("\n".join([*map(str, problems.values()), advice]))
    return networks


def measurable(
    names: Sequence[str], table: Mapping[str, Metric], provided: Collection[str], flags: WeightFlags
) -> tuple[list[str], dict[str, str]]:
    """Which of some metrics can be measured here, and why the others cannot: {name: reason}."""
    can, cannot = [], {}
    for name in names:
        try:
            load_metric_networks(select_metrics(name, table, provided), table, flags)
            can.append(name)
        except UserError as error:
            cannot[name] = str(error).split("\n")[0]
    return can, cannot


def measure_pair(metrics: Sequence[Metric], images: PairImages, pair_name: str) -> Values:
    """All numbers of one pair; a NaN or infinite one is a `UserError` naming metric and pair."""
    values: Values = {}
    for metric in metrics:
        try:
            values |= metric.measure(images)
        except UserError as error:
            raise UserError(f"{pair_name}: {error}") from error
    for key, value in values.items():
        if value is not None and not math.isfinite(value):
            raise UserError(f"{key} of {pair_name} is {value}; look at its images, captions and the weights")
    return values


def _measure_region(images: PairImages) -> Values:
    values = {}
    similarity = ssim_map(images.generated, images.target)
    for side, where in _sides(images.region):
        defined = where.any()
        for name, function in (("l1", l1), ("l2", l2), ("psnr", psnr)):
            values[f"{side}_{name}"] = function(images.generated, images.target, where) if defined else None
        values[f"{side}_ssim"] = mean_where(similarity, where) if defined else None
    return values


def _measure_unchanged(images: PairImages) -> Values:
    shares = [share for step in images.steps if (share := unchanged_pixel_share(step)) is not None]
    return {"unchanged_pixel_share": math.fsum(shares) / len(shares) if shares else None}


def _measure_lpips(images: PairImages) -> Values:
    """The distance of the whole images and, where there is a region, the mean of its map on either side."""
    network = images.networks["lpips"]
    values: Values = {"lpips": network.distance(images.generated, images.target)}
    if images.region is not None:
        distances = network.distance_map(images.generated, images.target)
        for side, where in _sides(images.region):
            values[f"{side}_lpips"] = mean_where(distances, where) if where.any() else None
    return values


def _sides(region: Tensor) -> tuple[tuple[str, Tensor], tuple[str, Tensor]]:
    return ("inside", region), ("outside", ~region)


def _image_similarity(images: PairImages, encoder: str) -> float:
    features = images.features[encoder]
    return cosine(features.generated, features.target)


def _text_similarity(features: PairFeatures, image: Tensor) -> float | None:
    return None if features.caption is None else cosine(image, features.caption)


def _measure_local_description(images: PairImages) -> Values:
    """Of the generated image and, as what a perfect edit would get ("oracle"), of the ground truth."""
    features = images.features["clip"]
    return {
        "clip-t": _text_similarity(features, features.generated),
        "clip-t_oracle": _text_similarity(features, features.target),
    }


def _measure_output_caption(images: PairImages) -> Values:
    features = images.features["clip"]
    return {"clip-out": _text_similarity(features, features.generated)}


def _direction(features: PairFeatures, normalised: bool = False) -> float | None:
    if features.caption is None or features.input_caption is None:
        return None
    if features.generated is features.source:  # in the row that copies the source, which is no edit
        return None
    images = (features.source, features.generated)
    captions = (features.input_caption, features.caption)
    if normalised:
        images, captions = (
            tuple(F.normalize(feature, dim=0) for feature in pair) for pair in (images, captions)
        )
    return direction_cosine(images, captions)


def _measure_direction(images: PairImages) -> Values:
    return {"clip-dir": _direction(images.features["clip"])}


def _measure_direction_l14(images: PairImages) -> Values:
    """InstructPix2Pix's (Brooks et al., arXiv 2211.09800): features of ViT-L/14, of length 1."""
    return {"clip-dir-l14": _direction(images.features["clip-l14"], normalised=True)}


def metric_table(*metrics: Metric) -> dict[str, Metric]:
    """The metrics of an evaluator by their names."""
    return {metric.name: metric for metric in metrics}


_IMAGE_METRICS = metric_table(
    Metric("l1", lambda images: {"l1": l1(images.generated, images.target)}),
    Metric("l2", lambda images: {"l2": l2(images.generated, images.target)}),
    Metric("psnr", lambda images: {"psnr": psnr(images.generated, images.target)}),
    Metric("ssim", lambda images: {"ssim": ssim(images.generated, images.target)}),
    Metric("lpips", _measure_lpips, needs=("lpips",)),
    Metric("clip-i", lambda images: {"clip-i": _image_similarity(images, "clip")}, needs=("clip",)),
    Metric("dino", lambda images: {"dino": _image_similarity(images, "dino")}, needs=("dino",)),
)
MAGICBRUSH_METRICS = _IMAGE_METRICS | metric_table(
    Metric("clip-t", _measure_local_description, needs=("clip", "caption")),
    Metric("region", _measure_region, needs=("region",)),
    Metric("unchanged", _measure_unchanged, needs=("region",)),
)
EMU_METRICS = _IMAGE_METRICS | metric_table(
    Metric(
        "clip-t",
        lambda images: _measure_output_caption(images) | _measure_direction(images),
        needs=("clip", "caption"),
    ),
    Metric("clip-dir-l14", _measure_direction_l14, needs=("clip-l14", "caption")),
)
