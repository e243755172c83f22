"""Keeping a small codebook in use: a k-means start and re-seeding of codes that never occur."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenizer.tokenizer_image.vq_model import VectorQuantizer


@torch.no_grad()
def spherical_kmeans(
    unit: Tensor, num_centres: int, generator: torch.Generator, iterations: int = 10
) -> Tensor:
    """Clusters (n, E) unit vectors by angle.

    Centres start from vectors drawn without replacement as far as they go; a cluster that runs empty gets a
    fresh random vector.

    Returns:
      (num_centres, E) unit centres.
    """
    unit = unit.float()
    centres = draw(unit, num_centres, generator)
    for _ in range(iterations):
        nearest = (unit @ centres.T).argmax(dim=-1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, unit)
        empty = torch.bincount(nearest, minlength=num_centres) == 0
        sums[empty] = draw(unit, int(empty.sum()), generator)
        centres = F.normalize(sums, dim=-1)
    return centres


def draw(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draws `count` of the (n, E) rows, each at most ceil(count / n) times; `generator` lives on the CPU."""
    rounds = -(-count // len(rows))
    picks = [torch.randperm(len(rows), generator=generator) for _ in range(max(rounds, 1))]
    return rows[torch.cat(picks)[:count].to(rows.device)]


class DeadCodes:
    """Counts how often each code occurs and replaces those that never do.

    Unused rows get no gradient, so they would stay unused; latents of the current batch are where codes are
    needed (as in Jukebox, arXiv 2005.00341, section 3.1).
    """

    def __init__(self, quantize: VectorQuantizer):
        self.quantize = quantize
        self.counts = torch.zeros(len(quantize.embedding.weight), dtype=torch.int64)
        self.counts = self.counts.to(quantize.embedding.weight.device)

    def count(self, ids: Tensor) -> None:
        """Adds codes of any shape to the counts."""
        self.counts += torch.bincount(ids.flatten(), minlength=len(self.counts))

    @property
    def usage(self) -> float:
        """Share of the codebook seen since the last reset, in [0, 1]."""
        return (self.counts > 0).float().mean().item()

    @torch.no_grad()
    def reseed(self, latents: Tensor, generator: torch.Generator) -> int:
        """Replaces every code unseen since the last reset by one of the (n, E) unit latents, then resets.

        Returns:
          how many codes were replaced.
        """
        dead = self.counts == 0
        self.quantize.embedding.weight[dead] = draw(latents.float(), int(dead.sum()), generator)
        self.counts.zero_()
        return int(dead.sum())
