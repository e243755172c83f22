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
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TEXT = -1  # the cell of a slot that stands nowhere in the image
ORDER_KINDS = ("raster", "random", "reverse", "spiral", "outside_in", "columns")
REGION_ORDERS = ("random", "raster")  # of `region_orders`, one half each


@dataclass(frozen=True)
class SequenceLayout:
    """One batch of sequences; see the module's legend."""

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
    targets: Tensor | None = None
    """(B, K) codes to predict."""
    loss_weight: Tensor | None = None
    """(B, K) float32; 1 where supervised, else 0."""
    supervised: Tensor | None = None
    """(R,) which of the B·K predictions are supervised; made where the layout is, so that no device waits."""
    sample_ids: Tensor | None = None
    """(B, L) for packed rows: attention stays within one sample."""
    content_index: Tensor | None = None
    """(B, L) which of [text | image] contents stands in each slot; None for the order as given."""

    def to(self, device: torch.device | str) -> SequenceLayout:
        """The same layout with its tensors on `device`."""
        return self._map(lambda t: t.to(device, non_blocking=True))

    def rows(self, index: Tensor) -> SequenceLayout:
        """The rows that `index` (R,) names, in its order; one may come several times."""
        return dataclasses.replace(self._map(lambda t: t[index] if t.dim() > 1 else t), slots=self.slots)

    def span(self, start: int, end: int) -> SequenceLayout:
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

    def _map(self, change) -> SequenceLayout:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return SequenceLayout(**{k: change(v) if isinstance(v, Tensor) else v for k, v in values.items()})

    def arrange(self, text: Tensor, image: Tensor) -> Tensor:
        """Puts (B, T, D) text and (B, S, D) image contents into their slots: (B, L, D)."""
        contents = torch.cat([text, image], dim=1)
        if self.content_index is None:
            return contents
        return contents.gather(1, self.content_index[..., None].expand(-1, -1, contents.shape[-1]))

    def used_slots(self) -> Tensor:
        """(B, L) bool of a training layout: True up to a row's last supervised slot, but for padding."""
        length = self.cells.shape[1]
        first = length - self.num_predictions
        places = torch.arange(self.num_predictions, device=self.cells.device) + 1
        last = ((self.loss_weight > 0) * places).amax(1, keepdim=True)
        in_front = torch.arange(length, device=self.cells.device) < first + last
        return in_front & (last > 0) & self.key_valid

    def attention_mask(self) -> Tensor:
        """(B, 1, L, M) bool, True where a slot may look: (causal & key valid & same sample) | itself."""
        key_slots = torch.arange(self.key_valid.shape[1], device=self.slots.device)
        allowed = (key_slots <= self.slots[:, None]) & self.key_valid[:, None, :]
        if self.sample_ids is not None:
            allowed = allowed & (self.sample_ids[:, :, None] == self.sample_ids[:, None, :])
        return (allowed | (key_slots == self.slots[:, None]))[:, None]


def pack_rows(layout: SequenceLayout, text: Tensor) -> tuple[SequenceLayout, Tensor]:
    """A training batch as one row: the samples one after the other, without padding and unsupervised ends.

    Samples that supervise nothing are left out whole; of a batch of nothing else the first stays. Makes the
    losses of the padded batch, with fewer slots. On the CPU, before anything waits for a device.

    Args:
      layout: as `t2i_layout` and `editing_layout` make it.
      text: (B, T, C).
    Returns:
      The layout of one row, and its text (1, T', C).
    """
    num_rows, length = layout.cells.shape
    first = length - layout.num_predictions  # the first slot that predicts
    used = layout.used_slots()
    if not used.any():
        used[0] = layout.key_valid[0]
    is_text = torch.arange(length) < text.shape[1]
    image = layout.token_ids.new_zeros(num_rows, length)
    image[:, text.shape[1] :] = layout.token_ids

    def padded(values: Tensor) -> Tensor:
        """(B, K) of the predictions → (B, L) of the slots."""
        return torch.cat([values.new_zeros(num_rows, first), values], dim=1)[used][None]

    order = torch.argsort((~is_text.expand_as(used)[used]).to(torch.uint8), stable=True)
    weight = padded(layout.loss_weight)
    count = int(used.sum())
    packed = SequenceLayout(
        token_ids=image[used & ~is_text][None],
        cells=layout.cells[used][None],
        next_cells=layout.next_cells[used][None],
        key_valid=torch.ones(1, count, dtype=torch.bool),
        slots=torch.arange(count),
        num_predictions=count,
        targets=padded(layout.targets),
        loss_weight=weight,
        supervised=weight[0].nonzero().flatten(),
        sample_ids=torch.arange(num_rows)[:, None].expand_as(used)[used][None],
        content_index=torch.argsort(order)[None],
    )
    kept_text = used[:, : text.shape[1]].flatten().nonzero().flatten()
    return packed, text.flatten(0, 1)[kept_text.to(text.device, non_blocking=True)][None]


def raster_edit_order(edit_mask: Tensor) -> Tensor:
    """(B, N) bool → (B, N) cells, the edited ones first, both groups in raster order."""
    return torch.argsort((~edit_mask).to(torch.uint8), dim=1, stable=True)


def random_orders(seeds: list[int], num_cells: int, edit_mask: Tensor | None = None) -> Tensor:
    """(B, N) uniformly random cell orders, one generator a sample so that a batch never matters.

    Args:
      seeds: one a sample.
      edit_mask: (B, N) bool; then the edited cells come first, each group in random order.
    """
    generator = torch.Generator()
    orders = torch.stack([torch.randperm(num_cells, generator=generator.manual_seed(s)) for s in seeds])
    if edit_mask is None:
        return orders
    kept_last = torch.argsort((~edit_mask.gather(1, orders)).to(torch.uint8), dim=1, stable=True)
    return orders.gather(1, kept_last)


def spiral_order(grid: int) -> Tensor:
    """(grid * grid,) cells ring by ring around the centre, from the inside outwards."""
    return order_region(torch.arange(grid**2), grid, "spiral", torch.Generator())


def order_region(cells: Tensor, grid: int, kind: str, generator: torch.Generator) -> Tensor:
    """The cells of a region in an order of a kind.

    Args:
      cells: (n,) raster numbers, rising.
      grid: cells per side of the image.
      kind: one of `ORDER_KINDS`; "spiral" goes ring by ring from the middle of the region outwards,
        "outside_in" the same way back, "columns" down one column after the other.
      generator: of "random".
    """
    if kind == "random":
        return cells[torch.randperm(len(cells), generator=generator)]
    if kind in ("reverse", "outside_in"):
        return order_region(cells, grid, {"reverse": "raster"}.get(kind, "spiral"), generator).flip(0)
    rows, columns = cells // grid, cells % grid
    if kind == "columns":
        return cells[(columns * grid + rows).argsort()]
    if kind == "raster" or not len(cells):
        return cells
    # Of each direction, the middle between the region's two ends.
    rows, columns = (places - (places.min() + places.max()) / 2 for places in (rows, columns))
    ring, turn = torch.maximum(rows.abs(), columns.abs()), torch.atan2(rows, columns)
    by_turn = turn.argsort(stable=True)
    return cells[by_turn[ring[by_turn].argsort(stable=True)]]


def edit_orders(seeds: list[int], edit_mask: Tensor, kinds: Sequence[str]) -> Tensor:
    """(B, N) cells, the edited ones first in an order of one of `kinds`, the kept ones in raster order.

    Args:
      seeds: one a sample; they choose the kind and shuffle.
      edit_mask: (B, N) bool.
      kinds: of `ORDER_KINDS`.
    """
    orders = raster_edit_order(edit_mask)
    grid = round(edit_mask.shape[1] ** 0.5)
    generator = torch.Generator()
    for order, count, seed in zip(orders, edit_mask.sum(1).tolist(), seeds, strict=True):
        generator.manual_seed(seed)
        order[:count] = order_region(order[:count], grid, _choose(kinds, generator), generator)
    return orders


def _choose(kinds: Sequence[str], generator: torch.Generator) -> str:
    return kinds[int(torch.rand((), generator=generator) * len(kinds))]


def region_orders(seeds: list[int], num_cells: int, kinds: Sequence[str] = REGION_ORDERS) -> Tensor:
    """(B, N) orders of zero-shot edits: cells in raster order, but those of a random rectangle come last.

    Height and width are uniform.

    Args:
      seeds: one a sample.
      kinds: of `ORDER_KINDS`, in one of which the rectangle's cells come.
    """
    grid = round(num_cells**0.5)
    generator = torch.Generator()
    orders = torch.empty(len(seeds), num_cells, dtype=torch.long)
    for order, seed in zip(orders, seeds, strict=True):
        generator.manual_seed(seed)
        size = torch.randint(1, grid + 1, (2,), generator=generator)
        top, left = (torch.rand(2, generator=generator) * (grid + 1 - size)).long().tolist()
        height, width = size.tolist()
        kept = torch.ones(1, grid, grid, dtype=torch.bool)
        kept[:, top : top + height, left : left + width] = False
        order[:] = raster_edit_order(kept.flatten(1))[0]
        region = order[-height * width :]
        region[:] = order_region(region, grid, _choose(kinds, generator), generator)
    return orders


def t2i_layout(
    codes: Tensor, orders: Tensor, text_valid: Tensor, sample_valid: Tensor | None = None
) -> SequenceLayout:
    """Text-to-image training: text · codes in `orders`; every cell is predicted.

    Args:
      codes: (B, N) raster codes.
      orders: (B, N) cells in generation order.
      text_valid: (B, T) bool, padding at the left.
      sample_valid: (B,) bool; False gives a sample no weight.
    """
    ordered = codes.gather(1, orders)
    weight = torch.ones_like(ordered, dtype=torch.float32)
    return _teacher_forced(ordered, orders, text_valid, ordered, weight, sample_valid)


def editing_layout(
    source: Tensor,
    target: Tensor,
    edit_mask: Tensor,
    text_valid: Tensor,
    vocab_size: int,
    *,
    marks: bool = True,
    orders: Tensor | None = None,
    sample_valid: Tensor | None = None,
    supervise_marks: bool = False,
) -> SequenceLayout:
    """Editing training: text · source codes · marks · edited codes; the edited cells are predicted.

    Full regeneration is an `edit_mask` of all True. Rows with fewer edited cells than the batch's largest
    number go on with kept cells, which have no weight.

    Args:
      source, target: (B, N) raster codes before and after the edit.
      edit_mask: (B, N) bool raster, at least one True a row.
      text_valid: (B, T) bool, padding at the left.
      vocab_size: V; the marks are V (keep) and V+1 (edit).
      marks: False leaves the marks out ("w/o ERC" in the paper).
      orders: (B, N) cells, edited ones first; raster order by default.
      sample_valid: (B,) bool; False gives a sample no weight.
      supervise_marks: the edited cells are predicted a first time by the slots in front of their marks,
        where no edited code is known that could tell what the edit is about.
    """
    orders = raster_edit_order(edit_mask) if orders is None else orders
    counts = edit_mask.sum(1)
    num = max(int(counts.max()), 1)  # a batch of nothing but bad samples still needs a shape
    ids, cells = _editing_context(source, edit_mask, vocab_size, marks)
    edited = target.gather(1, orders[:, :num])
    targets, weight = edited, (torch.arange(num, device=counts.device) < counts[:, None]).float()
    if supervise_marks:
        targets, weight = torch.cat([target, edited], dim=1), torch.cat([edit_mask.float(), weight], dim=1)
    return _teacher_forced(
        torch.cat([ids, edited], dim=1),
        torch.cat([cells, orders[:, :num]], dim=1),
        text_valid,
        targets,
        weight,
        sample_valid,
    )


def t2i_prompt(orders: Tensor, text_valid: Tensor) -> SequenceLayout:
    """Text only; the last text slot predicts the first cell of `orders` (B, N)."""
    empty = orders[:, :0]
    return _sequence(empty, empty, orders[:, :1], text_valid, 1)


def editing_prompt(
    source: Tensor,
    edit_mask: Tensor,
    orders: Tensor,
    text_valid: Tensor,
    vocab_size: int,
    *,
    marks: bool = True,
) -> SequenceLayout:
    """Text · source codes · marks; the last slot predicts the first cell of `orders`. As `editing_layout`."""
    ids, cells = _editing_context(source, edit_mask, vocab_size, marks)
    return _sequence(ids, cells, orders[:, :1], text_valid, 1)


def infill_prompt(codes: Tensor, edit_mask: Tensor, orders: Tensor, text_valid: Tensor) -> SequenceLayout:
    """Text · kept codes in raster order; the last slot predicts the first cell of `orders`.

    With a text-to-image model this is zero-shot editing and revision. Rows keep different numbers of cells:
    all padding goes to the left of the text, so that every row's last slot is its last content.

    Args:
      codes: (B, N) raster codes; only the kept ones are read.
      edit_mask: (B, N) bool raster; rows may be all True (then it is text-to-image).
      orders: (B, N) cells, edited ones first.
      text_valid: (B, T) bool.
    """
    cells, kept = right_aligned(~edit_mask)
    plain = _sequence(codes.gather(1, cells), cells, orders[:, :1], text_valid, 1)
    return pad_left(dataclasses.replace(plain, key_valid=torch.cat([text_valid, kept], dim=1)))


def right_aligned(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Raster numbers of the True cells in (B, N) `chosen`, in that order, at the right ends of (B, M) rows.

    Returns:
      The numbers, and (B, M) bool which of them are chosen ones; M is the most that a row has.
    """
    num_chosen = chosen.sum(1)
    longest = int(num_chosen.max())
    # Raster order of [others | chosen]: the last entries of a row are what is wanted.
    cells = raster_edit_order(~chosen)[:, chosen.shape[1] - longest :]
    return cells, torch.arange(longest, device=cells.device) >= longest - num_chosen[:, None]


def pad_left(layout: SequenceLayout) -> SequenceLayout:
    """Moves the slots that are not valid to the left: every row's last slot is its last content.

    What that slot predicts stays; every other slot predicts the one after it.
    """
    index = torch.argsort(layout.key_valid.to(torch.uint8), dim=1, stable=True)
    cells = layout.cells.gather(1, index)
    return dataclasses.replace(
        layout,
        cells=cells,
        next_cells=torch.cat([cells[:, 1:], layout.next_cells[:, -1:]], dim=1),
        key_valid=layout.key_valid.gather(1, index),
        content_index=index,
    )


def next_step(
    codes: Tensor, cells: Tensor, next_cells: Tensor, key_valid: Tensor, slot: Tensor
) -> SequenceLayout:
    """One decoding step: `codes` (B, 1) just drawn for `cells` (B, 1), now predicting `next_cells` (B, 1).

    Args:
      key_valid: (B, M) bool; keys behind `slot` are never seen, whatever it says of them.
      slot: (1,) the new slot.
    """
    return SequenceLayout(codes, cells, next_cells, key_valid, slot, 1)


def _editing_context(
    source: Tensor, edit_mask: Tensor, vocab_size: int, marks: bool
) -> tuple[Tensor, Tensor]:
    raster = torch.arange(source.shape[1], device=source.device).expand_as(source)
    segments = [source, vocab_size + edit_mask.long()] if marks else [source]
    return torch.cat(segments, dim=1), torch.cat([raster] * len(segments), dim=1)


def _teacher_forced(
    ids: Tensor,
    cells: Tensor,
    text_valid: Tensor,
    targets: Tensor,
    weight: Tensor,
    sample_valid: Tensor | None,
) -> SequenceLayout:
    """A layout whose last slots predict `targets` (B, K); the last id of all is none but a target."""
    if sample_valid is not None:
        weight = weight * sample_valid[:, None].float()
    layout = _sequence(ids[:, :-1], cells[:, :-1], cells[:, -1:], text_valid, targets.shape[1])
    supervised = weight.flatten().nonzero().flatten()
    return dataclasses.replace(layout, targets=targets, loss_weight=weight, supervised=supervised)


def _sequence(
    ids: Tensor, cells: Tensor, last_next_cell: Tensor, text_valid: Tensor, num: int
) -> SequenceLayout:
    text_cells = torch.full(text_valid.shape, TEXT, dtype=cells.dtype, device=cells.device)
    all_cells = torch.cat([text_cells, cells], dim=1)
    return SequenceLayout(
        token_ids=ids,
        cells=all_cells,
        next_cells=torch.cat([all_cells[:, 1:], last_next_cell], dim=1),
        key_valid=torch.cat([text_valid, torch.ones_like(cells, dtype=torch.bool)], dim=1),
        slots=torch.arange(all_cells.shape[1], device=cells.device),
        num_predictions=num,
    )
