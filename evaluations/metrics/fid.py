"""Fréchet inception distance (Heusel et al., arXiv 1706.08500) as clean-fid defines it (arXiv 2104.11222).

Images are resized to 299x299 bicubically in float32, channel by channel, and clipped; features are the 2048
numbers of StyleGAN2-ADA's TorchScript Inception; the distance is computed in float64.

network = load_inception(path, "--no-fid")
gaussian = folder_gaussian(list_images(folder), network, world, FolderSettings())
distance = frechet_distance(gaussian, other)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from evaluations.folders import load_batches
from evaluations.images import load_rgb
from evaluations.metrics.encoders import full_float32
from evaluations.metrics.fid_cache import StatisticsCache
from evaluations.metrics.weights import PRETRAINED, find_weights
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.files import file_sha256
from runtime.logging import get_logger, progress

log = get_logger(__name__)

INCEPTION_FILE = PRETRAINED / "inception-2015-12-05.pt"
INCEPTION_URL = (
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
)
INCEPTION_SIDE = 299
_BLOCK = 512  # images between two saves of a cached folder


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D) of `count` feature vectors, float64."""

    mean: Tensor
    covariance: Tensor
    count: int


class Moments:
    """Running sums of feature vectors, over batches and ranks."""

    def __init__(self) -> None:
        self._sums = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Takes in (n, D) features."""
        # A column of ones makes one matrix of the count, the sum and the sum of products.
        rows = torch.cat([torch.ones(len(features), 1), features.float().cpu()], dim=1).double()
        sums = rows.T @ rows
        self._sums = self._sums + sums if len(self._sums) else sums

    def gaussian(self, world: Distributed) -> Gaussian:
        """The Gaussian of what all ranks added."""
        width = max(world.gather_objects(len(self._sums)))
        # A rank that was given no images does not know the width.
        sums = self._sums if len(self._sums) else torch.zeros(width, width, dtype=torch.float64)
        # Several ranks add up on their GPUs; an Apple one, which serves one rank, has no float64.
        sums = world.all_reduce_sum(sums.to(world.device) if world.world_size > 1 else sums).cpu()
        count = int(sums[0, 0].round()) if width else 0
        if count < 2:
            raise UserError(f"FID needs two images or more in each set, got {count}")
        mean = sums[0, 1:] / count
        covariance = (sums[1:, 1:] - count * torch.outer(mean, mean)) / (count - 1)
        return Gaussian(mean, covariance, count)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    With C = R^T R, the trace of (C1 C2)^(1/2) is the sum of the singular values of R1 R2^T: real and stable
    for singular covariances too (fewer images than features), where a matrix square root of C1 C2 is not.
    """
    overlap = torch.linalg.svdvals(_factor(first.covariance) @ _factor(second.covariance).T).sum()
    spread = first.covariance.trace() + second.covariance.trace() - 2 * overlap
    distance = ((first.mean - second.mean).square().sum() + spread).item()
    assert math.isfinite(distance)
    return max(distance, 0.0)


def _factor(covariance: Tensor) -> Tensor:
    """R with R^T R = covariance."""
    values, vectors = torch.linalg.eigh(covariance)
    return values.clamp_min(0).sqrt()[:, None] * vectors.T


class ScriptedInception(nn.Module):
    """StyleGAN2-ADA's TorchScript Inception: (B, 3, 299, 299) in [0, 255] -> (B, 2048) features."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        try:
            with warnings.catch_warnings():
                # TorchScript is on its way out of torch, but the weights exist in no other form.
                warnings.simplefilter("ignore", FutureWarning)
                network = torch.jit.load(str(path), map_location="cpu").eval()
            # The file's own forward resizes another way; this is the part behind that.
            self.layers = network.layers
        except (RuntimeError, ValueError, OSError, AttributeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{path}: no TorchScript Inception network ({reason}); wanted: {INCEPTION_URL}"
            ) from None
        self.path, self.sha256 = Path(path), file_sha256(path)

    def describe(self) -> dict[str, str]:
        """Name and weights, for a report."""
        return {"model": "Inception 2015-12-05", "path": str(self.path), "sha256": self.sha256}

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        with full_float32(images.device):
            return self.layers((images - 128) / 128).flatten(1)


def load_inception(path: str | Path | None, without: str) -> ScriptedInception:
    """Inception from `path`, or from the usual place.

    Args:
      without: how to do without FID, for the message.
    Raises:
      UserError: the file is missing, or holds something else.
    """
    try:
        found = find_weights(path, "--inception_ckpt", "FID's Inception", [INCEPTION_FILE], {}, INCEPTION_URL)
    except UserError as error:
        raise UserError(f"{error}; or do without FID: {without}") from None
    return ScriptedInception(found)


def clean_resize(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 to (3, 299, 299) float32 in [0, 255], bicubic without rounding."""
    size = (INCEPTION_SIDE, INCEPTION_SIDE)
    channels = [
        Image.fromarray(image[..., channel].astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
        for channel in range(3)
    ]
    return torch.from_numpy(np.stack(channels)).clamp(0, 255)


@dataclass(frozen=True)
class FolderSettings:
    """How image files become features.

    Attributes:
      prepare: (H, W, 3) uint8 to the same, before Inception's resizing.
      prepared: says in words what `prepare` does; part of the cache's key.
      cache_dir: where to keep the result, and the progress of an interrupted run; None = nowhere.
    """

    prepare: Callable[[np.ndarray], np.ndarray] = lambda image: image
    prepared: str = "as it is"
    batch_size: int = 32
    num_workers: int = 2
    cache_dir: str | Path | None = None


def folder_gaussian(
    paths: Sequence[Path], network: ScriptedInception, world: Distributed, settings: FolderSettings
) -> Gaussian:
    """The Gaussian of the Inception features of image files; the ranks share the work.

    Raises:
      UserError: for unreadable images, features that are not finite, and a damaged cache.
    """
    cache = None
    if settings.cache_dir:
        key = {"inception": network.sha256, "prepared": settings.prepared}
        cache = StatisticsCache(settings.cache_dir, paths, key)
        if all(world.gather_objects(cache.path.is_file())):
            log.info("Inception statistics of %d images come from %s", len(paths), cache.path)
            arrays = cache.load()
            mean, covariance = (torch.from_numpy(arrays[name]) for name in ("mean", "covariance"))
            return Gaussian(mean, covariance, len(paths))
    moments = _folder_moments(paths, network.to(world.device), world, settings, cache)
    gaussian = moments.gaussian(world)
    if cache and world.is_main:
        cache.save(mean=gaussian.mean.numpy(), covariance=gaussian.covariance.numpy())
    return gaussian


def _folder_moments(
    paths: Sequence[Path],
    network: ScriptedInception,
    world: Distributed,
    settings: FolderSettings,
    cache: StatisticsCache | None,
) -> Moments:
    """This rank's share of the sums. Blocks do not depend on the ranks, so that any number can take over."""

    def load(path: Path) -> Tensor:
        return clean_resize(settings.prepare(load_rgb(path)))

    blocks = [paths[start : start + _BLOCK] for start in range(0, len(paths), _BLOCK)]
    mine = range(world.rank, len(blocks), world.world_size)
    moments = Moments()
    total = sum(len(blocks[index]) for index in mine)
    with (
        ThreadPoolExecutor(max(settings.num_workers, 1)) as pool,
        progress(total=total, desc="inception", unit="image", disable=not world.is_main) as bar,
    ):
        for index in mine:
            features = cache.load_block(index) if cache else None
            if features is None:
                batches = load_batches(blocks[index], load, settings.batch_size, pool)
                features = torch.cat(
                    [network(torch.stack(batch).to(world.device)).cpu() for batch in batches]
                )
                _check_finite(features, blocks[index])
                if cache:
                    cache.save_block(index, features)
            moments.add(features)
            bar.update(len(features))
    return moments


def _check_finite(features: Tensor, paths: Sequence[Path]) -> None:
    finite = features.isfinite().all(dim=1)
    if not finite.all():
        raise UserError(f"{paths[int(finite.int().argmin())]}: Inception's features are not finite")
