"""The training loss, with the output head on the supervised slots only. Letters: `sequence.layout`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autoregressive.models.gpt import Transformer
from autoregressive.sequence.layout import TrainingLayout

CHUNK = 2048  # slots whose logits are in memory at a time


def layout_loss(logits: Tensor, layout: TrainingLayout) -> Tensor:
    """Sum of the cross-entropies over the supervised slots, in float32; divide by their number for the mean.

    Args:
      logits: (B, K, V).
    """
    losses = F.cross_entropy(logits.float().flatten(0, 1), layout.targets.flatten(), reduction="none")
    return (losses * layout.loss_weight.flatten()).sum()


class SupervisedLoss(nn.Module):
    """What `layout_loss` of a model's logits gives, without the logits that nobody reads.

    Of a batch with 26 and 128 edited cells the plain way scores 256 slots, this one 154; where there are more
    than `CHUNK`, the backward pass computes each chunk's logits again instead of keeping them.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        self.head = _ScoringInChunks(model.output)

    def forward(self, layout: TrainingLayout, text: Tensor) -> Tensor:
        """Sum of the cross-entropies over the supervised slots, in float32.

        Args:
          text: (B, T, C) caption features.
        """
        hidden = self.model.hidden(layout, text).flatten(0, 1)[layout.supervised]
        return self.head(hidden, layout.targets.flatten()[layout.supervised])


class _ScoringInChunks(nn.Module):
    """The output head and the loss, a module that runs once a forward, as sharded weights want it."""

    def __init__(self, output: nn.Module) -> None:
        super().__init__()
        self.output = output

    @torch.compiler.disable(recursive=False)
    def forward(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Sum over (n, D) slots; the loop is no part of a compiled graph: each number of chunks would be
        another one."""
        chunks = list(zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True))
        if len(chunks) == 1:
            return self._sum(*chunks[0])
        return sum(checkpoint(self._sum, *chunk, use_reentrant=False) for chunk in chunks)

    def _sum(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.output(hidden).float(), targets, reduction="sum")
