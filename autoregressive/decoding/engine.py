"""The decoding engine: a prompt layout, then one slot per new code. Letters as in `sequence.layout`.

A model is weights and a forward; all that decoding needs besides belongs to an `Engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from autoregressive.decoding.cache import CachePool, KVCache
from autoregressive.decoding.packed_linear import pack_linears, unpack_linears
from autoregressive.decoding.sampling import Sampling, guide, pick
from autoregressive.models.gpt import Transformer
from autoregressive.sequence.builders import next_step
from autoregressive.sequence.layout import Prompt, SequenceLayout

NOT_FINITE = -1
"""Stands in the place of every code of a row for which the model gave NaN or infinity."""
MOST_STEP_SHAPES = 64  # numbers of rows, times lengths of the cache in steps of `CachePool.STEP`

OnCode = Callable[[int, Tensor], None]
"""Called with (number of the code, (B,) codes) after each draw; rows that are done give 0."""


class Engine:
    """Decodes with one model: owns the memory of keys and values, the compiled step, the packed weights.

    Several threads may use one engine, and a callback may generate again: each call borrows its own cache.
    """

    def __init__(self, model: Transformer, *, pack: bool = False) -> None:
        """
        Args:
          pack: on CPUs, keep the model's linear weights in the layout that decoding reads fastest: for models
            that are not trained; see `packed_linear`.
        """
        self.model = model
        self.caches = CachePool()
        self._step: Callable[..., Tensor] = model
        self._compiled_for: tuple | None = None
        if pack:
            pack_linears(model)

    def __getstate__(self) -> dict:
        """For `pickle` and `deepcopy`: a copy is not compiled, as the compiled step is the original's."""
        return self.__dict__ | {"_step": self.model, "_compiled_for": None}

    def move(self, device: torch.device | str | None, dtype: torch.dtype | None = None) -> None:
        """Moves the model, and packs it anew where it was packed or can be now."""
        unpack_linears(self.model)
        self.model.to(device=device, dtype=dtype)
        self.release()
        if not self.compiled:
            pack_linears(self.model)

    def borrow_cache(self, num_rows: int, length: int) -> AbstractContextManager[KVCache]:
        """A cache of `length` key slots for each row, for the time of a `with` block."""
        config = self.model.config
        shape = config.n_layer, num_rows, config.n_head, length, config.dim // config.n_head
        return self.caches.borrow(*shape, self.model.tok_embeddings.weight)

    def release(self) -> None:
        """Gives the memory of caches back that no call uses now."""
        self.caches.clear()

    @property
    def compiled(self) -> bool:
        """Whether decoding steps are compiled."""
        return self._compiled_for is not None

    def compile_steps(self) -> None:
        """Compiles the decoding steps, on GPUs to CUDA graphs; a minute for each number of rows.

        To keep their shapes, the rows of a batch become fewer by halves only. On CPUs they are slower than
        plain steps with packed weights.
        """
        model = self.model
        unpack_linears(model)  # an opaque weight is no part of a graph
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_STEP_SHAPES)
        mode = "reduce-overhead" if model.device.type == "cuda" else None
        self._step = torch.compile(model.forward, fullgraph=True, dynamic=False, mode=mode)
        self._compiled_for = model.device, model.dtype

    def step(self, layout: SequenceLayout, text: Tensor, cache: KVCache) -> Tensor:
        """The forward for one slot a row after a prompt; compiled where `compile_steps` was called."""
        if self.compiled and self._compiled_for != (self.model.device, self.model.dtype):
            self.compile_steps()  # anew, for where the weights are now
        return self._step(layout, text, cache)

    @property
    def steps_see_whole_cache(self) -> bool:
        """Whether decoding steps attend to slots not yet filled too, through the mask, instead of a slice.

        Compiled steps must keep their shapes; products in bfloat16 on CPUs would copy a slice.
        """
        return self.compiled or (self.model.device.type == "cpu" and self.model.dtype == torch.bfloat16)

    def rows_to_run(self, needed: int, drawing: int) -> int:
        """How many of the `drawing` first rows the next step has; compiled ones become fewer by halves."""
        if not self.compiled:
            return needed
        while (drawing + 1) // 2 >= max(needed, 1) and drawing > 1:
            drawing = (drawing + 1) // 2
        return drawing

    @torch.inference_mode()
    def generate(
        self,
        prompt: Prompt,
        text: Tensor,
        orders: Tensor,
        uniforms: Tensor,
        sampling: Sampling,
        *,
        counts: Sequence[int] | None = None,
        on_code: OnCode | None = None,
    ) -> Tensor:
        """Draws the codes of the cells in `orders`, in that order.

        The rows with the most cells come first inside, so that those still drawing are always the first ones
        and the others cost nothing; with guidance every row is two, side by side, of which the second goes
        when guidance ends.

        Args:
          prompt: P rows of what is given, each for the next B / P rows of `orders`: samples of one prompt
            share its prefill. The last slot predicts the first cell.
          text: (P, T, C) caption features.
          orders: (B, K) cells to generate.
          uniforms: (B, ≥ K) numbers in [0, 1) that decide the draws.
          sampling: guidance and truncation.
          counts: how many of its K cells each row needs, at least 1; K for all by default.
        Returns:
          (B, K) codes; 0 beyond a row's count, see `place`. `NOT_FINITE` is the caller's to look for: that
          waits for the device.
        """
        batch, num_new = orders.shape
        num_prompts, prompt_length = prompt.cells.shape
        if batch % num_prompts:
            raise ValueError(f"{batch} rows cannot share {num_prompts} prompts evenly")
        counts = [num_new] * batch if counts is None else list(counts)
        ranking = sorted(range(batch), key=lambda row: -counts[row])
        rows = torch.tensor(ranking, device=orders.device)
        copies = 2 if sampling.cfg_scale > 1 else 1
        prompt_of = rows // (batch // num_prompts)
        if copies == 2:
            prompt, text, prompt_of = _beside_unconditional(self.model, prompt, text, prompt_of)
        draws = _Draws(orders[rows], uniforms[rows], [counts[row] for row in ranking], copies, sampling)
        in_order = on_code and (lambda number, drawn: on_code(number, _unsorted(drawn, rows)))
        with self.borrow_cache(copies * batch, prompt_length + num_new - 1) as cache:
            codes = self._draw_all(prompt, text, prompt_of, draws, cache, in_order)
        return _unsorted(codes, rows)

    def _draw_all(
        self,
        prompt: Prompt,
        text: Tensor,
        prompt_of: Tensor,
        draws: _Draws,
        cache: KVCache,
        on_code: OnCode | None,
    ) -> Tensor:
        """`generate` into `cache`; `prompt_of` names the prompt of each row's copies."""
        num_rows, num_new = draws.orders.shape
        slot = prompt.cells.shape[1]
        key_valid = F.pad(prompt.key_valid[prompt_of], (0, cache.length - slot), value=True)
        slots = torch.arange(cache.length, device=key_valid.device)
        no_text = text[:1, :0].expand(len(prompt_of), -1, -1)
        logits = self._prefill(prompt, text, draws.orders[:, :1], prompt_of, cache)
        if self.steps_see_whole_cache:
            cache.blank_rest()
        codes = draws.orders.new_zeros(num_rows, num_new)
        finite = torch.ones_like(codes[:, 0], dtype=torch.bool)
        run = draws.copies
        for i in range(num_new):
            if run == 2:
                logits = guide(logits.float(), draws.sampling.cfg_scale)
            drawing, needed = len(logits), draws.still_needed(i)
            finite[:needed] &= logits[:needed].isfinite().all(1)
            codes[:needed, i] = pick(logits, draws.uniforms[:drawing, i], draws.sampling)[:needed]
            if on_code is not None:
                on_code(i, codes[:, i].clone())
            if i + 1 == num_new:
                break
            drawing = self.rows_to_run(draws.still_needed(i + 1), drawing)
            run = draws.copies_after(i)
            cache.rows = slice(0, draws.copies * drawing, draws.copies // run)
            cache.live = cache.length if self.steps_see_whole_cache else slot + 1
            layout = next_step(
                codes[:drawing, i : i + 1].repeat_interleave(run, 0),
                draws.orders[:drawing, i : i + 1].repeat_interleave(run, 0),
                draws.orders[:drawing, i + 1 : i + 2].repeat_interleave(run, 0),
                key_valid[cache.rows, : cache.live],
                slots[slot : slot + 1],
            )
            logits = self.step(layout, no_text[cache.rows], cache)[:, -1]
            slot += 1
        return codes.masked_fill(~finite[:, None], NOT_FINITE)

    def _prefill(
        self,
        prompt: Prompt,
        text: Tensor,
        first_cells: Tensor,
        prompt_of: Tensor,
        cache: KVCache,
    ) -> Tensor:
        """Scores (R, V) of the rows' first cells; row i's prompt is that of row `prompt_of[i]`."""
        num_prompts, length = prompt.cells.shape
        if len(prompt_of) == num_prompts:
            cache.live = length
            return self.model(prompt.rows(prompt_of), text[prompt_of], cache)[:, -1]
        # The last slot knows which cell comes first, so it is each row's own.
        cache.rows, cache.live = slice(num_prompts), length - 1
        self.model(prompt.span(0, length - 1), text, cache)
        cache.copy_rows(prompt_of)
        cache.rows, cache.live = slice(None), length
        last = prompt.span(length - 1, length).rows(prompt_of)
        first_cells = first_cells.repeat_interleave(len(prompt_of) // len(first_cells), 0)
        return self.model(replace(last, next_cells=first_cells), text[prompt_of], cache)[:, -1]


@dataclass(frozen=True)
class _Draws:
    """What is to be drawn: rows of falling counts."""

    orders: Tensor
    uniforms: Tensor
    counts: list[int]
    copies: int
    """Rows of the cache for each: two with guidance, side by side."""
    sampling: Sampling

    def still_needed(self, i: int) -> int:
        """How many rows, the first ones, have an i-th code to draw."""
        return sum(count > i for count in self.counts)

    def copies_after(self, i: int) -> int:
        """How many rows of each run after its i-th code: past the guidance interval the conditional alone."""
        return 1 if 0 <= self.sampling.cfg_interval < i else self.copies


def _unsorted(ranked: Tensor, rows: Tensor) -> Tensor:
    """Row i of `ranked` back to row `rows[i]`."""
    return torch.empty_like(ranked).index_copy_(0, rows, ranked)


def _beside_unconditional(
    model: Transformer, prompt: Prompt, text: Tensor, prompt_of: Tensor
) -> tuple[Prompt, Tensor, Tensor]:
    """Every row twice, side by side: with its text and without."""
    text = torch.stack([text, model.unconditional_text(text)], dim=1).flatten(0, 1)
    twice = torch.arange(len(prompt.cells), device=prompt_of.device).repeat_interleave(2)
    prompt_of = torch.stack([2 * prompt_of, 2 * prompt_of + 1], dim=1).flatten()
    return prompt.rows(twice), text, prompt_of


def place(codes: Tensor, orders: Tensor, counts: Tensor, onto: Tensor) -> Tensor:
    """Puts generated codes on the grid.

    Args:
      codes, orders: (B, K) from `generate`.
      counts: (B,) how many of a row's codes are meant; later ones are ignored.
      onto: (B, N) raster codes that stay elsewhere.
    Returns:
      (B, N) raster codes.
    """
    meant = torch.arange(codes.shape[1], device=codes.device) < counts[:, None]
    return onto.scatter(1, orders, torch.where(meant, codes, onto.gather(1, orders)))
