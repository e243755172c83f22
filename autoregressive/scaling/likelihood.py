"""How likely a model finds the codes of an image, cell by cell, and the reward made of it.

Letters: B batch, N cells, T text slots, C caption width, K predictions, V codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.models.gpt import Transformer, evaluating
from autoregressive.scaling.reward import Reward
from autoregressive.sequence.builders import t2i_layout
from autoregressive.sequence.layout import TrainingLayout
from autoregressive.sequence.orders import random_orders
from runtime.errors import UserError


@torch.inference_mode()
def log_likelihood(model: Transformer, layout: TrainingLayout, text: Tensor, orders: Tensor) -> Tensor:
    """Log-probabilities of a teacher-forced layout's targets, by cell.

    Args:
      layout: predicts the first K cells of `orders`.
      text: (B, T, C).
      orders: (B, N) cells in generation order.
    Returns:
      (B, N) float32 on the CPU, raster order; 0 for cells that are not predicted.
    """
    with evaluating(model):
        logits = model(layout.to(model.device), text.to(model.device, model.dtype)).float()
    chosen = logits.log_softmax(-1).gather(-1, layout.targets[..., None].to(model.device))[..., 0].cpu()
    return torch.zeros(orders.shape).scatter(1, orders[:, : chosen.shape[1]], chosen * layout.loss_weight)


class LikelihoodReward(Reward):
    """The mean log-likelihood (nats, at most 0) of an image's codes under a text-to-image model.

    Averaged over a few random orders, so that no cell is always the first, which knows the text alone. An
    image is encoded to be scored, so that images of any origin are judged alike.
    """

    name = "likelihood"

    def __init__(self, pipeline: EditingPipeline, num_orders: int = 4) -> None:
        """
        Args:
          num_orders: passes an image, each in another order; a raster-order model makes a single one.
        Raises:
          UserError: an editing model, whose codes hang on a source.
        """
        config = pipeline.transformer.config
        if config.mask_in_context:
            raise UserError(
                "the reward 'likelihood' needs a text-to-image model, this one has edit/keep marks and asks "
                "for a source image; take another reward"
            )
        self._pipeline, num_cells = pipeline, config.block_size
        self._orders = random_orders(list(range(num_orders)), num_cells)
        if not config.any_order:
            self._orders = torch.arange(num_cells)[None]

    def score(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        return self.token_scores(images, texts, self._pipeline.grid).mean(1)

    def token_scores(self, images: Sequence[Image.Image], texts: Sequence[str], grid: int) -> Tensor:
        """(B, N) log-likelihood of every cell's code; `grid` must be the model's own."""
        assert grid == self._pipeline.grid, f"the model has {self._pipeline.grid} cells a side, not {grid}"
        codes = self._pipeline.encode(images).cpu()
        text, text_valid = self._pipeline.encode_texts(texts)
        passes = []
        for order in self._orders:
            orders = order.expand(len(codes), -1)
            layout = t2i_layout(codes, orders, text_valid)
            passes.append(log_likelihood(self._pipeline.transformer, layout, text, orders))
        return torch.stack(passes).mean(0)
