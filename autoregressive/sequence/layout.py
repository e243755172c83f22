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
    """(B, L) key slot of each position."""
    num_predictions: int
    """The trailing K slots go through the output head."""
    sample_ids: Tensor | None = None
    """(B, L) for packed rows: attention stays within one sample."""
    content_index: Tensor | None = None
    """(B, L) which of [text | image] contents stands in each slot; None for the order as given."""
    horizon: Tensor | None = None
    """(B, L) the last key slot that each position sees besides its own; None for its own: plain causality."""

    def arrange(self, text: Tensor, image: Tensor) -> Tensor:
        """Puts (B, T, D) text and (B, S, D) image contents into their slots: (B, L, D)."""
        contents = torch.cat([text, image], dim=1)
        if self.content_index is None:
            return contents
        return contents.gather(1, self.content_index[..., None].expand(-1, -1, contents.shape[-1]))

    def attention_mask(self) -> Tensor:
        """(B, 1, L, M) bool, True where a slot may look: (to the horizon & valid & same sample) | itself."""
        key_slots = torch.arange(self.key_valid.shape[1], device=self.slots.device)
        horizon = self.slots if self.horizon is None else self.horizon
        allowed = (key_slots <= horizon[:, :, None]) & self.key_valid[:, None, :]
        if self.sample_ids is not None:
            allowed = allowed & (self.sample_ids[:, :, None] == self.sample_ids[:, None, :])
        return (allowed | (key_slots == self.slots[:, :, None]))[:, None]


@dataclass(frozen=True)
class Prompt(SequenceLayout):
    """What is given before the first code is drawn; its last slot predicts that code."""

    def rows(self, index: Tensor) -> Prompt:
        """The rows that `index` (R,) names, in its order; one may come several times."""
        return self.map_tensors(lambda t: t[index])

    def span(self, start: int, end: int) -> Prompt:
        """The slots [start, end) alone; they see what came before them through a cache."""
        return dataclasses.replace(
            self,
            cells=self.cells[:, start:end],
            next_cells=self.next_cells[:, start:end],
            key_valid=self.key_valid[:, :end],
            slots=self.slots[:, start:end],
            num_predictions=min(self.num_predictions, end - start),
            content_index=self._contents()[:, start:end],
        )

    def with_probes(self, next_cells: Tensor) -> Prompt:
        """With copies of the last slot behind it that predict other cells from the same prefix.

        Each copy sees what the last slot sees, and itself. Its key slot is one that decoding fills later.

        Args:
          next_cells: (B, P) what the copies predict.
        """

        def extended(values: Tensor) -> Tensor:
            return torch.cat([values, values[:, -1:].expand_as(next_cells)], dim=1)

        num_probes = next_cells.shape[1]
        behind = self.slots[:, -1:] + torch.arange(1, num_probes + 1, device=self.slots.device)
        return dataclasses.replace(
            self,
            cells=extended(self.cells),
            next_cells=torch.cat([self.next_cells, next_cells], dim=1),
            key_valid=torch.cat([self.key_valid, torch.ones_like(next_cells, dtype=torch.bool)], dim=1),
            slots=torch.cat([self.slots, behind], dim=1),
            num_predictions=self.num_predictions + num_probes,
            content_index=extended(self._contents()),
            horizon=torch.cat([self.slots, (self.slots[:, -1:] - 1).expand_as(next_cells)], dim=1),
        )

    def _contents(self) -> Tensor:
        """(B, L) which content stands in each slot."""
        if self.content_index is not None:
            return self.content_index
        return torch.arange(self.cells.shape[1], device=self.cells.device).expand_as(self.cells)


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
