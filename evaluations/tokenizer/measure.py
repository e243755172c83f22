"""What reconstructions are judged by; shared by the folder evaluator and by the one that runs a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluations.folders import natural_key
from evaluations.metrics.fid import Moments, ScriptedInception, clean_resize, frechet_distance, load_inception
from evaluations.metrics.formulas import mean_over_pairs, psnr, ssim, to_tensor
from evaluations.metrics.lpips import LpipsNetwork, load_vgg_lpips
from evaluations.tokenizer.flags import JudgeFlags
from runtime.distributed import Distributed
from runtime.errors import UserError


@dataclass(frozen=True)
class Judges:
    """The networks that were asked for, on their device."""

    lpips: LpipsNetwork | None = None
    inception: ScriptedInception | None = None

    @classmethod
    def load(cls, flags: JudgeFlags, device: torch.device) -> Judges:
        """Raises UserError naming missing weights, and what runs without them."""
        lpips = inception = None
        if flags.lpips or flags.vgg_ckpt or flags.lpips_ckpt:
            try:
                lpips = load_vgg_lpips(flags.vgg_ckpt, flags.lpips_ckpt, device)
            except UserError as error:
                raise UserError(f"{error}; PSNR and SSIM run without --lpips") from None
        if flags.fid or flags.inception_ckpt:
            inception = load_inception(flags.inception_ckpt, "PSNR and SSIM run without --fid").to(device)
        return cls(lpips, inception)

    def describe(self) -> dict[str, dict[str, str]]:
        """Names and hashes of the weights, for a report."""
        named = {"lpips": self.lpips, "inception": self.inception}
        return {name: network.describe() for name, network in named.items() if network is not None}


class ReconstructionScores:
    """Takes in pairs of images and says how alike they are, each pair and both sets."""

    def __init__(self, judges: Judges, world: Distributed, num_workers: int = 2) -> None:
        self._judges, self._world = judges, world
        self._pool = ThreadPoolExecutor(max(num_workers, 1))
        self._items: list[dict[str, Any]] = []
        self._moments = (Moments(), Moments())

    def add(
        self, names: Sequence[str], originals: Sequence[np.ndarray], reconstructions: Sequence[np.ndarray]
    ) -> None:
        """Measures pairs of (H, W, 3) uint8 images; `names` are unique over all pairs and ranks."""
        pairs = list(zip(names, originals, reconstructions, strict=True))
        items = list(self._pool.map(lambda pair: _measure_pair(*pair), pairs))
        if self._judges.lpips:
            for item, (_, original, reconstruction) in zip(items, pairs, strict=True):
                distance = self._judges.lpips.distance(to_tensor(reconstruction), to_tensor(original))
                item["metrics"]["lpips"] = distance
        self._items += items
        if self._judges.inception:
            for moments, images in zip(self._moments, (originals, reconstructions), strict=True):
                resized = torch.stack(list(self._pool.map(clean_resize, images)))
                moments.add(self._features(resized, names))

    def result(self) -> tuple[dict[str, float | None], list[dict[str, Any]]]:
        """Means over the pairs of all ranks and "fid" of the sets; and {"name", "metrics"} of every pair."""
        self._pool.shutdown()
        shares = self._world.gather_objects(self._items)
        items = [item for share in shares for item in share]
        items.sort(key=lambda item: (natural_key(item["name"]), item["name"]))  # 1 and 01 share a key
        means = mean_over_pairs([item["metrics"] for item in items])
        if self._judges.inception:
            means["fid"] = frechet_distance(*(moments.gaussian(self._world) for moments in self._moments))
        return means, items

    def _features(self, resized: Tensor, names: Sequence[str]) -> Tensor:
        features = self._judges.inception(resized.to(self._world.device)).cpu()
        finite = features.isfinite().all(dim=1).tolist()
        if not all(finite):
            raise UserError(f"{names[finite.index(False)]}: Inception's features are not finite")
        return features


def _measure_pair(name: str, original: np.ndarray, reconstruction: np.ndarray) -> dict[str, Any]:
    if original.shape != reconstruction.shape:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (original, reconstruction)]
        raise UserError(f"{name}: the original is {sizes[0]}, its reconstruction {sizes[1]}; save them alike")
    images = to_tensor(reconstruction), to_tensor(original)
    return {"name": name, "metrics": {"psnr": psnr(*images), "ssim": ssim(*images)}}
