"""A batch as one row. Letters as in `autoregressive.sequence.layout`."""

from __future__ import annotations

import torch
from torch import Tensor

from autoregressive.sequence.layout import TrainingLayout


def pack_rows(layout: TrainingLayout, num_text: int) -> tuple[TrainingLayout, Tensor]:
    """A training batch as one row: the samples one after the other, without padding and unsupervised ends.

    Samples that supervise nothing are left out whole; of a batch of nothing else the first stays. Makes the
    losses of the padded batch, with fewer slots. On the CPU, before anything waits for a device.

    Args:
      layout: as `t2i_layout` and `editing_layout` make it.
      num_text: T.
    Returns:
      The layout of one row, and which of the B·T text slots, (T',), it keeps.
    """
    num_rows, length = layout.cells.shape
    first = length - layout.num_predictions  # the first slot that predicts
    used = layout.used_slots()
    if not used.any():
        used[0] = layout.key_valid[0]
    is_text = torch.arange(length) < num_text
    image = layout.token_ids.new_zeros(num_rows, length)
    image[:, num_text:] = layout.token_ids

    def padded(values: Tensor) -> Tensor:
        """(B, K) of the predictions → (B, L) of the slots."""
        return torch.cat([values.new_zeros(num_rows, first), values], dim=1)[used][None]

    order = torch.argsort((~is_text.expand_as(used)[used]).to(torch.uint8), stable=True)
    weight = padded(layout.loss_weight)
    count = int(used.sum())
    packed = TrainingLayout(
        token_ids=image[used & ~is_text][None],
        cells=layout.cells[used][None],
        next_cells=layout.next_cells[used][None],
        key_valid=torch.ones(1, count, dtype=torch.bool),
        slots=torch.arange(count)[None],
        num_predictions=count,
        targets=padded(layout.targets),
        loss_weight=weight,
        supervised=weight[0].nonzero().flatten(),
        sample_ids=torch.arange(num_rows)[:, None].expand_as(used)[used][None],
        content_index=torch.argsort(order)[None],
    )
    return packed, used[:, :num_text].flatten().nonzero().flatten()
