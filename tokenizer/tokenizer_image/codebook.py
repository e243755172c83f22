"""Keeping a codebook in use: a k-means start, re-seeding of codes that never occur, a loss for even use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class CodeCounts:
    """How often each code occurred since the last reset.

    Attributes:
      counts: (V,) int64.
    """

    def __init__(self, codebook_size: int, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(codebook_size, dtype=torch.int64, device=device)

    def add(self, ids: Tensor) -> None:
        """Counts codes of any shape."""
        self.counts += torch.bincount(ids.flatten(), minlength=len(self.counts))

    def reset(self) -> None:
        self.counts.zero_()


@torch.no_grad()
def spherical_kmeans(
    unit: Tensor, num_centres: int, generator: torch.Generator, iterations: int = 10
) -> Tensor:
    """Clusters (n, E) unit vectors by angle.

    Centres start as vectors drawn without replacement as far as they go; a cluster that runs empty starts
    again from a random vector.

    Returns:
      (num_centres, E) unit centres, float32.
    """
    unit = unit.float()
    centres = draw_rows(unit, num_centres, generator)
    for _ in range(iterations):
        nearest = (unit @ centres.T).argmax(dim=-1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, unit)
        empty = torch.bincount(nearest, minlength=num_centres) == 0
        sums[empty] = draw_rows(unit, int(empty.sum()), generator)
        centres = F.normalize(sums, dim=-1)
    return centres


@torch.no_grad()
def reseed_unused(codebook: Tensor, counts: Tensor, latents: Tensor, generator: torch.Generator) -> int:
    """Replaces the codebook rows that never occurred by latents of the current batch, in place.

    Unused rows get no gradient and would stay unused; latents are where rows are needed (as in Jukebox,
    arXiv 2005.00341, section 3.1).

    Args:
      codebook: (V, E).
      counts: (V,) occurrences.
      latents: (n, E) unit vectors.
      generator: on the CPU.
    Returns:
      how many rows were replaced.
    """
    unused = counts == 0
    codebook[unused] = draw_rows(latents.float(), int(unused.sum()), generator)
    return int(unused.sum())


def draw_rows(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draws `count` of the (n, E) rows, each at most ceil(count / n) times; `generator` is on the CPU."""
    rounds = max(-(-count // len(rows)), 1)
    picks = [torch.randperm(len(rows), generator=generator) for _ in range(rounds)]
    return rows[torch.cat(picks)[:count].to(rows.device)]


def entropy_loss(unit: Tensor, codebook: Tensor, temperature: float = 0.01) -> Tensor:
    """Low where each vector has one clear nearest code and all codes are used alike.

    The mean entropy of a soft assignment by squared distance, less the entropy of its mean (the entropy
    penalty of MaskGIT's tokenizer, arXiv 2202.04200, as LlamaGen has it).

    Args:
      unit: (n, E) unit vectors.
      codebook: (V, E) unit rows.
    Returns:
      A scalar of at least -log V.
    """
    with torch.autocast(unit.device.type, enabled=False):  # at this temperature bf16 would decide the codes
        # The squared distance of unit vectors is 2 - 2 cos; a constant changes no softmax.
        log_probs = (2 / temperature * unit.float() @ codebook.float().T).log_softmax(dim=-1)
    probs = log_probs.exp()
    mean = probs.mean(dim=0)
    return (mean * (mean + 1e-5).log()).sum() - (probs * log_probs).sum(dim=-1).mean()
