"""The sequence of an edit of which some cells are drawn again. Letters as in `autoregressive.layout`."""

from __future__ import annotations

import torch
from torch import Tensor

from autoregressive.layout import SequenceLayout, editing_prompt, raster_edit_order


def revision_prompt(
    source: Tensor,
    codes: Tensor,
    edit_mask: Tensor,
    cells: Tensor,
    orders: Tensor,
    text_valid: Tensor,
    *,
    vocab_size: int,
    marks: bool,
) -> SequenceLayout:
    """Text · source codes · marks · the edit's kept codes; the last slot predicts the first of `orders`.

    What an editing model has read when it has drawn all edited cells but `cells`, in raster order. Rows keep
    different numbers of codes: as in `infill_prompt` all padding goes to the left.

    Args:
      source: (P, N) raster codes of the image before the edit.
      codes: (P, N) raster codes of the edit as it is.
      edit_mask: (P, N) bool, the cells that the edit may change.
      cells: (P, N) bool, those of them to draw again, at least one a row.
      orders: (P, K) these, in generation order.
      text_valid: (P, T) bool, padding at the left.
      vocab_size, marks: as in `editing_layout`.
    """
    context = editing_prompt(source, edit_mask, orders, text_valid, vocab_size, marks=marks)
    kept = edit_mask & ~cells
    num_kept = kept.sum(1)
    longest = int(num_kept.max())
    # Raster order of [others | kept]: the last `num_kept` entries of a row are its kept cells.
    kept_cells = raster_edit_order(~kept)[:, kept.shape[1] - longest :]
    is_kept = torch.arange(longest) >= longest - num_kept[:, None]
    valid = torch.cat([context.key_valid, is_kept], dim=1)
    index = torch.argsort(valid.to(torch.uint8), dim=1, stable=True)
    slot_cells = torch.cat([context.cells, kept_cells], dim=1).gather(1, index)
    return SequenceLayout(
        token_ids=torch.cat([context.token_ids, codes.gather(1, kept_cells)], dim=1),
        cells=slot_cells,
        next_cells=torch.cat([slot_cells[:, 1:], orders[:, :1]], dim=1),
        key_valid=valid.gather(1, index),
        slots=torch.arange(slot_cells.shape[1]),
        num_predictions=1,
        content_index=index,
    )
