"""Which cells to draw again."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from autoregressive.scaling.reward import Reward
from autoregressive.scaling.tasks import TaskBatch
from autoregressive.sequence.orders import random_orders
from runtime.errors import UserError


def propose_cells(
    region: str,
    batch: TaskBatch,
    codes: Tensor,
    images: list[Image.Image],
    reward: Reward,
    *,
    counts: Tensor,
    seeds: list[int],
) -> Tensor:
    """Chooses some of each task's free cells.

    Args:
      region: of `REGIONS`: "lowest" (the reward's token scores), "likelihood" (the model's own) or "random".
      codes: (P, N) codes of the images as they are.
      images: these, P of them.
      counts: (P,) how many cells.
      seeds: P, which break ties and decide the orders of "likelihood".
    Returns:
      (P, N) bool.
    Raises:
      UserError: scores that are not numbers.
    """
    if region == "lowest":
        scores = reward.token_scores(images, batch.captions, batch.pipeline.grid)
    elif region == "likelihood":
        scores = batch.log_likelihood(codes, seeds)
    else:
        scores = torch.zeros(codes.shape)
    scores = scores.cpu()
    if not scores[batch.free].isfinite().all():
        raise UserError(
            f"region {region!r}: not all token scores (reward {reward.name!r}) are numbers; choose the cells "
            "by --region random"
        )
    return lowest_cells(scores, batch.free, counts, seeds)


def lowest_cells(scores: Tensor, free: Tensor, counts: Tensor, seeds: list[int]) -> Tensor:
    """The free cells with the lowest scores, ties at random.

    Args:
      scores: (P, N).
      free: (P, N) bool.
      counts: (P,) how many cells, at most the number of free ones.
      seeds: P, for the ties.
    Returns:
      (P, N) bool.
    """
    shuffled = random_orders(seeds, scores.shape[1])
    ranking = scores.masked_fill(~free, torch.inf).gather(1, shuffled).argsort(dim=1, stable=True)
    chosen = torch.arange(scores.shape[1]) < counts[:, None]
    return torch.zeros_like(free).scatter(1, shuffled.gather(1, ranking), chosen)
