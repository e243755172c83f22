"""A prompt's slots computed once for all samples of it: forward and backward, G times fewer.

Of an edit with N cells of which K are drawn, a sample's row has T + 2N + K - 1 slots, and all but the last K
are those of its group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autoregressive.models.gpt import Transformer
from autoregressive.sequence.layout import SequenceLayout


class _Prompts:
    """Keys and values of P prompts, which are those of the next G rows each: a `Cache` with gradients."""

    def __init__(self, group_size: int) -> None:
        self._group_size = group_size
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if layer not in self._kept:
            self._kept[layer] = key, value
            return key, value
        keys, values = (kept.repeat_interleave(self._group_size, 0) for kept in self._kept[layer])
        return torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)


def hidden_of_groups(model: Transformer, layout: SequenceLayout, text: Tensor, group_size: int) -> Tensor:
    """What `Transformer.hidden` gives of a layout whose rows come in groups of one prompt: (B, K, D).

    Args:
      layout: P · G rows, equal within a group up to the slots that predict.
      text: (B, T, C), of which one row a group is read.
      group_size: G; 1 shares nothing.
    """
    if group_size == 1:
        return model.hidden(layout, text)
    first, cache = layout.cells.shape[1] - layout.num_predictions, _Prompts(group_size)
    one = layout.map_tensors(lambda tensor: tensor[::group_size])
    num_text = text.shape[1]
    model.hidden(_slots(one, 0, first, num_text), text[::group_size, :first], cache)
    return model.hidden(_slots(layout, first, None, num_text), text[:, first:], cache)


def _slots(layout: SequenceLayout, start: int, end: int | None, num_text: int) -> SequenceLayout:
    """The slots from `start` to before `end`; they see what came before them through a cache."""
    image_end = None if end is None else max(end - num_text, 0)
    return SequenceLayout(
        token_ids=layout.token_ids[:, max(start - num_text, 0) : image_end],
        cells=layout.cells[:, start:end],
        next_cells=layout.next_cells[:, start:end],
        key_valid=layout.key_valid[:, :end],
        slots=layout.slots[:, start:end],
        num_predictions=0 if start == 0 else layout.num_predictions,
    )
