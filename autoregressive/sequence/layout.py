"""What stands in a sequence and what it predicts, as data: the model runs every use through one forward.

Letters: B batch, T text slots, S image slots, L = T + S, M key slots, K predictions, N raster cells,
V code vocabulary. A *slot* is a place in the sequence, a *cell* a place in the image. Slot i holds a text
feature, a code or a mark, stands on a cell (-1 for text) and predicts the code of slot i+1's cell.

Example, 2×2 cells (N = 4), two text slots, cells 1 and 2 edited, V = 64, with marks:

    content     t t | s0 s1 s2 s3 | keep edit edit keep | c1          (c2 is only a target)
    cells      -1-1 |  0  1  2  3 |  0    1    2    3   |  1
    next_cells -1 0 |  1  2  3  0 |  1    2    3    1   |  2
    predicts                                     c1        c2         (num_predictions = 2)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.tensor_fields import TensorFields

TEXT = -1  # the cell of a slot that stands nowhere in the image


@dataclass(frozen=True)
class SequenceLayout(TensorFields):
    """One batch of sequences, as the model reads it; see the module's legend."""

    token_ids: Tensor
    """(B, S) int64 in [0, V+2): a code, V for the keep mark, V+1 for the edit mark."""
    cells: Tensor
    """(B, L) raster cell each slot stands on, in [0, N); -1 for text."""
    next_cells: Tensor
    """(B, L) cell each slot predicts; -1 for none."""
    key_valid: Tensor
    """(B, M) bool; False where a key slot is padding."""
    slots: Tensor
    """(L,) absolute key slot of each position."""
    num_predictions: int
    """The trailing K slots go through the output head."""
    sample_ids: Tensor | None = None
    """(B, L) for packed rows: attention stays within one sample."""
    content_index: Tensor | None = None
    """(B, L) which of [text | image] contents stands in each slot; None for the order as given."""

    def arrange(self, text: Tensor, image: Tensor) -> Tensor:
        """Puts (B, T, D) text and (B, S, D) image contents into their slots: (B, L, D)."""
        contents = torch.cat([text, image], dim=1)
        if self.content_index is None:
            return contents
        return contents.gather(1, self.content_index[..., None].expand(-1, -1, contents.shape[-1]))

    def attention_mask(self) -> Tensor:
        """(B, 1, L, M) bool, True where a slot may look: (causal & key valid & same sample) | itself."""
        key_slots = torch.arange(self.key_valid.shape[1], device=self.slots.device)
        allowed = (key_slots <= self.slots[:, None]) & self.key_valid[:, None, :]
        if self.sample_ids is not None:
            allowed = allowed & (self.sample_ids[:, :, None] == self.sample_ids[:, None, :])
        return (allowed | (key_slots == self.slots[:, None]))[:, None]


@dataclass(frozen=True)
class Prompt(SequenceLayout):
    """What is given before the first code is drawn; its last slot predicts that code."""

    def rows(self, index: Tensor) -> Prompt:
        """The rows that `index` (R,) names, in its order; one may come several times."""
        return dataclasses.replace(
            self.map_tensors(lambda t: t[index] if t.dim() > 1 else t), slots=self.slots
        )

    def span(self, start: int, end: int) -> Prompt:
        """The slots [start, end) alone; they see what came before them through a cache."""
        index = self.content_index
        if index is None:
            index = torch.arange(self.cells.shape[1], device=self.cells.device).expand_as(self.cells)
        return dataclasses.replace(
            self,
            cells=self.cells[:, start:end],
            next_cells=self.next_cells[:, start:end],
            key_valid=self.key_valid[:, :end],
            slots=self.slots[start:end],
            num_predictions=min(self.num_predictions, end - start),
            content_index=index[:, start:end],
        )


@dataclass(frozen=True, kw_only=True)
class TrainingLayout(SequenceLayout):
    """A whole sequence with what its predictions are held against."""

    targets: Tensor
    """(B, K) codes to predict."""
    loss_weight: Tensor
    """(B, K) float32; 1 where supervised, else 0."""
    supervised: Tensor
    """(R,) which of the B·K predictions are supervised; made where the layout is, so that no device waits."""

    def used_slots(self) -> Tensor:
        """(B, L) bool, True up to a row's last supervised slot, but for padding."""
        length = self.cells.shape[1]
        first = length - self.num_predictions
        places = torch.arange(self.num_predictions, device=self.cells.device) + 1
        last = ((self.loss_weight > 0) * places).amax(1, keepdim=True)
        in_front = torch.arange(length, device=self.cells.device) < first + last
        return in_front & (last > 0) & self.key_valid
