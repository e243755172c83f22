"""Rows that are decoded together, each at its own place; they join and leave between passes.

A pass runs a *window* of each row: the code drawn last and, behind it, guesses of the next ones, each in
the slot and on the cell that the order gives it. The noise of every cell is fixed, so what comes after given
codes is a function of them, and an output of the window is what sequential sampling draws if all guesses
before it are. Outputs up to the first one behind a wrong guess are settled; the others are the next guesses.
So a pass settles at least one cell, and for a seed the codes are those of one cell a pass, but for rounding
between products of different shapes (Wiggers & Hoogeboom 2020; Song et al. 2021; Teng et al. 2024).

Letters: P prompts, R rows, K cells of a row, W window, V codes, M key slots. A row has a *lane* of the cache;
with guidance two, of which the second reads no text and goes when guidance ends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autoregressive.decoding.sampling import guide, pick, seeded_uniforms, signed
from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.models.attention import KVCache
from autoregressive.models.gpt import Transformer
from autoregressive.sequence.layout import Prompt, SequenceLayout
from runtime.devices import widest_float

NOT_FINITE = -1
"""Stands in the place of every code of a row for which the model gave NaN or infinity."""

Step = Callable[[SequenceLayout, Tensor, KVCache], Tensor]
"""The forward of a few slots a row, as `Transformer.forward`."""


@dataclass
class Row:
    """One sample as far as it is drawn.

    Attributes:
      count: K, cells to draw.
      first_slot: where its first code goes.
      lanes: of the cache, one or two.
      last_guided: number of the last code that is drawn with guidance.
      num_settled: codes drawn.
      num_passes: forwards it took, the prompt's included.
      codes: (K,) once it has left; all `NOT_FINITE` if the model's numbers were not finite.
    """

    count: int
    sampling: Sampling
    first_slot: int
    lanes: list[int]
    last_guided: int
    num_settled: int = 1
    num_passes: int = 1
    codes: Tensor | None = None

    @property
    def done(self) -> bool:
        return self.num_settled >= self.count


class Batch:
    """Rows on a cache. What decides a row's place lives on the device; counts are known to the host."""

    def __init__(
        self,
        model: Transformer,
        step: Step,
        cache: KVCache,
        *,
        max_cells: int,
        window: int,
        max_slots: int | None = None,
        fixed_shapes: bool = False,
        whole_cache: bool = False,
    ) -> None:
        """
        Args:
          step: the model's forward, or a compiled one.
          cache: of as many lanes as rows may come together (twice as many with guidance), with at least W - 1
            slots more than any row's prompt and cells.
          max_cells: the largest K.
          window: the largest W; rows whose sampling asks for less settle no more than that a pass.
          max_slots: lanes times W of a pass, where more lanes are to have smaller windows.
          fixed_shapes: passes have W slots and a power of two of lanes, whatever is needed.
          whole_cache: passes see all M slots through the mask, instead of a slice.
        """
        self.model, self.cache = model, cache
        self._window, self._max_slots = window, max_slots
        self.rows: list[Row] = []
        self._step, self._fixed_shapes, self._whole_cache = step, fixed_shapes, whole_cache
        self._num_lanes = 0
        device, most = model.device, cache.num_lanes
        integers = {"dtype": torch.long, "device": device}
        num_uniforms = model.config.block_size + window
        self._key_valid = torch.ones(most, cache.length, dtype=torch.bool, device=device)
        self._no_text = torch.empty(most, 0, model.config.caption_dim, dtype=model.dtype, device=device)
        # Of each row; those of the rows in the batch come first.
        self._codes = torch.zeros(most, max_cells + window, **integers)  # settled ones, then guesses
        self._orders = torch.zeros(most, max_cells + window, **integers)
        self._settled, self._first_slot, self._count, self._seed = torch.zeros(4, most, **integers)
        self._finite = torch.ones(most, dtype=torch.bool, device=device)
        self._uniforms = torch.zeros(most, num_uniforms, dtype=widest_float(device), device=device)
        self._of_row = (self._codes, self._orders, self._settled, self._first_slot, self._count, self._seed)
        self._of_row += (self._finite, self._uniforms)

    def free_lanes(self) -> int:
        """How many lanes no row has."""
        return self.cache.num_lanes - self._num_lanes

    def join(
        self,
        prompt: Prompt,
        text: Tensor,
        orders: Tensor,
        seeds: Sequence[int],
        sampling: Sampling,
        counts: Sequence[int],
        guesses: Tensor | None = None,
    ) -> list[Row]:
        """Runs prompts and draws the first code of each row; see `Engine.generate` for the arguments."""
        if sampling.parallel > 1 and self.rows:
            raise ValueError("rows that draw several cells at once do not join others")
        self._num_fresh = 1  # cells of the last pass in parallel
        copies = sampling.num_lanes
        start, first_lane, (num_new, num_cells) = len(self.rows), self._num_lanes, orders.shape
        length, rows = prompt.cells.shape[1], slice(start, start + num_new)
        self._codes[rows], self._orders[rows] = 0, 0
        self._orders[rows, :num_cells] = orders
        self._settled[rows], self._first_slot[rows] = 1, length
        self._seed[rows] = torch.tensor([signed(seed) for seed in seeds]).to(self._seed)
        self._count[rows] = torch.tensor(counts).to(self._count)
        if sampling.draw == "inverse":
            uniforms = seeded_uniforms(list(seeds), self.model.config.block_size)
            self._uniforms[rows, : uniforms.shape[1]] = uniforms.to(self._uniforms)
        width = min(self._width(self._num_lanes + copies * num_new, num_cells), sampling.window or num_cells)
        probed = guesses is None and width > 1 and sampling.guesses != "last" and sampling.parallel == 1
        logits = self._prefill(prompt, text, orders if probed else orders[:, :1], copies)
        self._num_lanes += copies * num_new
        lanes = torch.arange(first_lane, self._num_lanes).view(num_new, copies).tolist()
        last_guided = num_cells if sampling.cfg_interval < 0 else sampling.cfg_interval + 1
        new = [Row(n, sampling, length, own, last_guided) for n, own in zip(counts, lanes, strict=True)]
        self.rows += new
        self._regroup()
        numbers = torch.arange(logits.shape[1], device=logits.device).expand(num_new, -1)
        if copies == 2:
            logits = _guided(logits[::2], logits[1::2], sampling.cfg_scale, numbers, last_guided)
        self._finite[rows] = logits[:, 0].isfinite().all(-1)
        drawn = self._pick(logits, rows, numbers, sampling)
        self._codes[rows, :num_cells] = drawn[:, :1] if guesses is None else guesses
        self._codes[rows, : drawn.shape[1]] = drawn
        return new

    def _prefill(self, prompt: Prompt, text: Tensor, orders: Tensor, copies: int) -> Tensor:
        """Runs P prompts into new lanes, B / P rows for each.

        Args:
          orders: (B, K); the first of a row's cells is predicted by the prompt's last slot, the others by
            copies of that slot.
        Returns:
          (copies · B, K, V) scores.
        """
        prompt_of = torch.arange(len(orders), device=orders.device) // (len(orders) // len(prompt.cells))
        if copies == 2:
            prompt, text, prompt_of = _beside_unconditional(self.model, prompt, text, prompt_of)
            orders = orders.repeat_interleave(2, 0)
        (num_prompts, length), cache = prompt.cells.shape, self.cache
        first = self._num_lanes
        lanes = slice(first, first + len(prompt_of))
        self._key_valid[lanes, :length] = prompt.key_valid[prompt_of]
        self._key_valid[lanes, length:] = True
        cache.lanes = lanes
        cache.blank_from(length)
        if num_prompts < len(prompt_of):
            cache.lanes, cache.live = slice(first, first + num_prompts), length - 1
            self.model(prompt.span(0, length - 1), text, cache)
            cache.lanes = lanes
            cache.spread(prompt_of)
            # The last slot knows which cell comes first, so it is each row's own.
            prompt, text = prompt.span(length - 1, length).rows(prompt_of), text[prompt_of]
            prompt = replace(prompt, next_cells=orders[:, :1])
        cache.live = length + orders.shape[1] - 1
        return self.model(prompt.with_probes(orders[:, 1:]), text, cache)

    def _width(self, num_lanes: int, longest: int) -> int:
        """W of a pass of so many lanes, with so many cells to draw in a row."""
        if self._fixed_shapes:
            return self._window
        width = min(self._window, longest)
        return width if self._max_slots is None else min(width, max(1, self._max_slots // num_lanes))

    def step(self) -> None:
        """One pass of all rows; those that are done should have left."""
        if self.rows[0].sampling.parallel > 1:
            self._step_in_parallel()
            return
        num_rows = len(self.rows)
        width = self._width(self._num_lanes, max(row.count - row.num_settled for row in self.rows))
        index = self._settled[:num_rows, None] - 1 + torch.arange(width, device=self._codes.device)
        reach = max(row.num_settled + row.first_slot for row in self.rows) + width - 1
        logits = self._run(index, index + 1, index, reach)
        drawn, finite = self._draw(logits, index + 1)
        right = self._num_right(drawn, self._codes[:num_rows].gather(1, index[:, 1:]))
        self._settle(index + 1, drawn, finite, torch.minimum(1 + right, self._limit), waits=width > 1)

    def _num_right(self, drawn: Tensor, guesses: Tensor) -> Tensor:
        """(R,) how many of the (R, W - 1) guesses are what was drawn, up to the first wrong one."""
        return (drawn[:, :-1] == guesses).cumprod(1).sum(1)

    def _step_in_parallel(self) -> None:
        """Draws several cells of each row from one prefix, by copies of the last slot; all are settled.

        What the pass before settled is run first, so that it is seen; rows have come together.
        """
        done, device = self.rows[0].num_settled, self._codes.device
        longest = max(row.count for row in self.rows)
        number = min(self.rows[0].sampling.parallel, done, longest - done)
        fresh = torch.arange(self._num_fresh, device=device) + done - self._num_fresh
        others = torch.arange(1, number, device=device)
        last = torch.full_like(others, done - 1)
        held, coming = torch.cat([fresh, last]), torch.cat([fresh + 1, done + others])
        slots, horizon = torch.cat([fresh, last + others]), torch.cat([fresh, last - 1])
        held, coming, slots, horizon = (
            values.expand(len(self.rows), -1) for values in (held, coming, slots, horizon)
        )
        reach = max(row.first_slot for row in self.rows) + done + number - 1
        logits = self._run(held, coming, slots, reach, horizon, number)
        numbers = coming[:, -number:]
        drawn, finite = self._draw(logits, numbers)
        self._settle(numbers, drawn, finite, torch.full_like(self._settled[: len(self.rows)], number))
        self._num_fresh = number

    def _run(
        self,
        held: Tensor,
        coming: Tensor,
        slots: Tensor,
        reach: int,
        horizon: Tensor | None = None,
        num_predictions: int | None = None,
    ) -> Tensor:
        """A forward of (R, W) slots of the rows: (lanes, K, V) scores.

        Args:
          held, coming: the numbers, in the rows' orders, of the codes in the slots and of the cells that they
            predict.
          slots, horizon: as in `SequenceLayout`, from each row's first slot on.
          reach: key slots in sight.
          num_predictions: K; all if None.
        """
        num_rows, lanes = len(self.rows), self._row_of_lane
        first = self._first_slot[:num_rows, None]
        self.cache.lanes = slice(0, len(lanes))
        self.cache.live = self.cache.length if self._whole_cache else reach
        layout = SequenceLayout(
            token_ids=self._codes[:num_rows].gather(1, held)[lanes],
            cells=self._orders[:num_rows].gather(1, held)[lanes],
            next_cells=self._orders[:num_rows].gather(1, coming)[lanes],
            key_valid=self._key_valid[: len(lanes), : self.cache.live],
            slots=(first + slots)[lanes],
            num_predictions=num_predictions or held.shape[1],
            horizon=None if horizon is None else (first + horizon)[lanes],
        )
        forward = self._step if horizon is None else self.model  # compiled steps have one shape
        return forward(layout, self._no_text[: len(lanes)], self.cache)

    def _settle(
        self, numbers: Tensor, drawn: Tensor, finite: Tensor, settled: Tensor, waits: bool = False
    ) -> None:
        """Notes (R, W) drawn codes of these numbers, of which the first (R,) `settled` stay.

        Args:
          waits: whether how many only the device knows; else it is one, or as many as were drawn.
        """
        num_rows, width = drawn.shape
        settled = torch.minimum(settled, self._count[:num_rows] - self._settled[:num_rows])
        self._codes[:num_rows].scatter_(1, numbers, drawn)
        self._settled[:num_rows] += settled
        beyond = torch.arange(width, device=settled.device) >= settled[:, None]
        self._finite[:num_rows] &= (finite | beyond).all(1)
        known = settled.tolist() if waits else [width] * num_rows
        for row, number in zip(self.rows, known, strict=True):
            row.num_settled = min(row.num_settled + number, row.count)
            row.num_passes += 1

    def _draw(self, logits: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """(lanes, W, V) scores → (R, W) codes of these numbers, and whether their scores are finite."""
        scores = logits[self._conditional]
        if len(self._guided):
            rows = self._guided
            both = scores[rows], logits[self._unconditional]
            guided = _guided(*both, self._scale, numbers[rows], self._last_guided)
            scores = scores.float().index_copy_(0, rows, guided)
        codes = torch.empty_like(numbers)
        for sampling, rows in self._alike:
            codes[rows] = self._pick(scores[rows], rows, numbers[rows], sampling)
        return codes, scores.isfinite().all(-1)

    def _pick(self, scores: Tensor, rows: slice | Tensor, numbers: Tensor, sampling: Sampling) -> Tensor:
        """(r, W) codes of these numbers from (r, W, V) scores of the rows."""
        seeds = self._seed[rows, None].expand_as(numbers)
        cells = self._orders[rows].gather(1, numbers)
        uniforms = self._uniforms[rows].gather(1, numbers).flatten() if sampling.draw == "inverse" else None
        picked = pick(scores.flatten(0, 1), sampling, seeds.flatten(), cells.flatten(), uniforms)
        return picked.view_as(numbers)

    def codes(self) -> list[tuple[Row, Tensor]]:
        """The (K,) codes of each row: settled ones, then guesses."""
        return [(row, self._codes[index, : row.count]) for index, row in enumerate(self.rows)]

    def leave(self, leaving: Callable[[Row], bool] = lambda row: row.done) -> list[Row]:
        """Takes rows out, by default those that are done, and gives them their codes."""
        gone = [index for index, row in enumerate(self.rows) if leaving(row)]
        left = []
        for index in reversed(gone):  # the last row takes the place
            row, last = self.rows[index], len(self.rows) - 1
            codes = self._codes[index, : row.count].clone()
            row.codes = codes.masked_fill(~self._finite[index], NOT_FINITE)
            left.append(row)
            if index != last:
                for values in self._of_row:
                    values[index] = values[last]
                self.rows[index] = self.rows[last]
            self.rows.pop()
        ended = [row for row in self.rows if len(row.lanes) == 2 and row.num_settled > row.last_guided]
        freed = [lane for row in left for lane in row.lanes] + [row.lanes.pop() for row in ended]
        self._free(freed)
        if freed:
            self._regroup()
        return left

    def _free(self, lanes: list[int]) -> None:
        """Gives lanes back; the last ones take their places, so that the lanes in use are the first ones."""
        for lane in sorted(lanes, reverse=True):
            self._num_lanes -= 1
            last = self._num_lanes
            if lane == last:
                continue
            self.cache.move(last, lane)
            self._key_valid[lane] = self._key_valid[last]
            owner = next(row for row in self.rows if last in row.lanes)
            owner.lanes[owner.lanes.index(last)] = lane

    def _regroup(self) -> None:
        """Notes, for the passes to come, which row has which lanes and which rows are drawn alike."""
        device = self._codes.device
        num_lanes = self._num_lanes
        if self._fixed_shapes and num_lanes:
            num_lanes = min(1 << (num_lanes - 1).bit_length(), self.cache.num_lanes)
        row_of_lane = [0] * num_lanes
        alike: dict[Sampling, list[int]] = defaultdict(list)
        for index, row in enumerate(self.rows):
            alike[row.sampling].append(index)
            for lane in row.lanes:
                row_of_lane[lane] = index
        guided = [index for index, row in enumerate(self.rows) if len(row.lanes) == 2]

        def numbers(values: list) -> Tensor:
            return torch.tensor(values, dtype=torch.long).to(device, non_blocking=True)

        self._row_of_lane = numbers(row_of_lane)
        self._conditional = numbers([row.lanes[0] for row in self.rows])
        self._unconditional = numbers([self.rows[index].lanes[1] for index in guided])
        self._guided = numbers(guided)
        self._last_guided = numbers([self.rows[index].last_guided for index in guided])[:, None, None]
        scales = [self.rows[index].sampling.cfg_scale for index in guided]
        self._scale = torch.tensor(scales).to(device, non_blocking=True)[:, None, None]
        self._limit = numbers([row.sampling.window or self._window for row in self.rows])
        self._alike = [(sampling, numbers(rows)) for sampling, rows in alike.items()]


def _guided(
    conditional: Tensor, unconditional: Tensor, scale: Tensor | float, numbers: Tensor, last: Tensor | int
) -> Tensor:
    """(r, W, V) scores in float32, guided for codes of (r, W) numbers up to the last guided one."""
    conditional = conditional.float()
    guided = guide(conditional, unconditional.float(), scale)
    return torch.where(numbers[..., None] <= last, guided, conditional)


def _beside_unconditional(
    model: Transformer, prompt: Prompt, text: Tensor, prompt_of: Tensor
) -> tuple[Prompt, Tensor, Tensor]:
    """Every row twice, side by side: with its text and without."""
    text = torch.stack([text, model.unconditional_text(text)], dim=1).flatten(0, 1)
    twice = torch.arange(len(prompt.cells), device=prompt_of.device).repeat_interleave(2)
    prompt_of = torch.stack([2 * prompt_of, 2 * prompt_of + 1], dim=1).flatten()
    return prompt.rows(twice), text, prompt_of
