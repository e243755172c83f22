"""The sequence of an edit of which some cells are drawn again. Letters as in `sequence.layout`."""

from __future__ import annotations

import torch
from torch import Tensor

from autoregressive.sequence.builders import editing_prompt, pad_left, right_aligned
from autoregressive.sequence.layout import Prompt


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
) -> Prompt:
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
    kept_cells, is_kept = right_aligned(edit_mask & ~cells)
    slot_cells = torch.cat([context.cells, kept_cells], dim=1)
    return pad_left(
        Prompt(
            token_ids=torch.cat([context.token_ids, codes.gather(1, kept_cells)], dim=1),
            cells=slot_cells,
            next_cells=torch.cat([slot_cells[:, 1:], orders[:, :1]], dim=1),
            key_valid=torch.cat([context.key_valid, is_kept], dim=1),
            slots=torch.arange(slot_cells.shape[1]).expand_as(slot_cells),
            num_predictions=1,
        )
    )
