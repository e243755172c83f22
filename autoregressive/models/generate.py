"""The decoding loop: a prompt layout, then one slot per new code. Letters as in `autoregressive.layout`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from autoregressive.layout import SequenceLayout, next_step
from autoregressive.models.cache import KVCache
from autoregressive.models.gpt import Transformer
from autoregressive.models.sampling import Sampling, guide, pick

NOT_FINITE = -1
"""Stands in the place of every code of a row for which the model gave NaN or infinity."""


@torch.inference_mode()
def generate(
    model: Transformer,
    prompt: SequenceLayout,
    text: Tensor,
    orders: Tensor,
    uniforms: Tensor,
    sampling: Sampling,
    *,
    counts: Sequence[int] | None = None,
    on_code: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Draws the codes of the cells in `orders`, in that order.

    The rows with the most cells come first inside, so that those still drawing are always the first ones and
    the others cost nothing; with guidance every row is two, side by side, of which the second goes when
    guidance ends.

    Args:
      prompt: P rows of what is given, each for the next B / P rows of `orders`: samples of one prompt share
        its prefill. The last slot predicts the first cell.
      text: (P, T, C) caption features.
      orders: (B, K) cells to generate.
      uniforms: (B, ≥ K) numbers in [0, 1) that decide the draws.
      sampling: guidance and truncation.
      counts: how many of its K cells each row needs, at least 1; K for all by default.
      on_code: called with (number of the code, (B,) codes) after each draw; rows that are done give 0.
    Returns:
      (B, K) codes; 0 beyond a row's count, see `place`. `NOT_FINITE` is the caller's to look for: that waits
      for the device.
    """
    batch, num_new = orders.shape
    num_prompts, prompt_length = prompt.cells.shape
    if batch % num_prompts:
        raise ValueError(f"{batch} rows cannot share {num_prompts} prompts evenly")
    counts = [num_new] * batch if counts is None else list(counts)
    ranking = sorted(range(batch), key=lambda row: -counts[row])
    rows = torch.tensor(ranking, device=orders.device)
    orders, uniforms = orders[rows], uniforms[rows]
    copies = 2 if sampling.cfg_scale > 1 else 1
    prompt_of = rows // (batch // num_prompts)
    if copies == 2:
        prompt, text, prompt_of = _beside_unconditional(model, prompt, text, prompt_of)
    in_order = on_code and (lambda number, drawn: on_code(number, _unsorted(drawn, rows)))
    ranked = [counts[row] for row in ranking]
    with model.borrow_cache(copies * batch, prompt_length + num_new - 1) as cache:
        codes = _draw_all(model, prompt, text, prompt_of, orders, uniforms, sampling, cache, ranked, in_order)
    return _unsorted(codes, rows)


def _unsorted(ranked: Tensor, rows: Tensor) -> Tensor:
    """Row i of `ranked` back to row `rows[i]`."""
    return torch.empty_like(ranked).index_copy_(0, rows, ranked)


def _draw_all(
    model: Transformer,
    prompt: SequenceLayout,
    text: Tensor,
    prompt_of: Tensor,
    orders: Tensor,
    uniforms: Tensor,
    sampling: Sampling,
    cache: KVCache,
    counts: list[int],
    on_code: Callable[[int, Tensor], None] | None,
) -> Tensor:
    """`generate` for rows of falling counts, into `cache`; `prompt_of` names each row's copies."""
    batch, num_new = orders.shape
    prompt_length, copies = prompt.cells.shape[1], len(prompt_of) // batch
    key_valid = prompt.key_valid[prompt_of]
    key_valid = F.pad(key_valid, (0, cache.length - prompt_length), value=True)
    slots = torch.arange(cache.length, device=orders.device)

    no_text = text[:1, :0].expand(copies * batch, -1, -1)
    codes = orders.new_zeros(batch, num_new)
    finite = torch.ones_like(codes[:, 0], dtype=torch.bool)
    drawing, step = batch, 1
    logits = _prefill(model, prompt, text, orders[:, :1], prompt_of, cache)
    if model.steps_see_whole_cache:
        cache.blank_rest()
    for i in range(num_new):
        if copies // step == 2:
            logits = guide(logits.float(), sampling.cfg_scale)
        needed = sum(count > i for count in counts)
        finite[:needed] &= logits[:needed].isfinite().all(1)
        codes[:needed, i] = pick(logits, uniforms[:drawing, i], sampling)[:needed]
        if on_code is not None:
            on_code(i, codes[:, i].clone())
        if i + 1 == num_new:
            break
        drawing = _rows_to_run(sum(count > i + 1 for count in counts), drawing, model)
        step = copies if 0 <= sampling.cfg_interval < i else 1  # past the interval: conditional rows only
        cache.rows = slice(0, copies * drawing, step)
        cache.live = cache.length if model.steps_see_whole_cache else prompt_length + i + 1
        run = copies // step
        layout = next_step(
            codes[:drawing, i : i + 1].repeat_interleave(run, 0),
            orders[:drawing, i : i + 1].repeat_interleave(run, 0),
            orders[:drawing, i + 1 : i + 2].repeat_interleave(run, 0),
            key_valid[cache.rows, : cache.live],
            slots[prompt_length + i : prompt_length + i + 1],
        )
        logits = model.step(layout, no_text[cache.rows], cache)[:, -1]
    return codes.masked_fill(~finite[:, None], NOT_FINITE)


def _beside_unconditional(
    model: Transformer, prompt: SequenceLayout, text: Tensor, prompt_of: Tensor
) -> tuple[SequenceLayout, Tensor, Tensor]:
    """Every row twice, side by side: with its text and without."""
    text = torch.stack([text, model.unconditional_text(text)], dim=1).flatten(0, 1)
    twice = torch.arange(len(prompt.cells), device=prompt_of.device).repeat_interleave(2)
    prompt_of = torch.stack([2 * prompt_of, 2 * prompt_of + 1], dim=1).flatten()
    return prompt.rows(twice), text, prompt_of


def _prefill(
    model: Transformer,
    prompt: SequenceLayout,
    text: Tensor,
    first_cells: Tensor,
    prompt_of: Tensor,
    cache: KVCache,
) -> Tensor:
    """Scores (R, V) of the rows' first cells; row i's prompt is that of row `prompt_of[i]`."""
    num_prompts, length = prompt.cells.shape
    if len(prompt_of) == num_prompts:
        cache.live = length
        return model(prompt.rows(prompt_of), text[prompt_of], cache)[:, -1]
    # The last slot knows which cell comes first, so it is each row's own.
    cache.rows, cache.live = slice(num_prompts), length - 1
    model(prompt.span(0, length - 1), text, cache)
    cache.copy_rows(prompt_of)
    cache.rows, cache.live = slice(None), length
    last = prompt.span(length - 1, length).rows(prompt_of)
    first_cells = first_cells.repeat_interleave(len(prompt_of) // len(first_cells), 0)
    return model(replace(last, next_cells=first_cells), text[prompt_of], cache)[:, -1]


def _rows_to_run(needed: int, drawing: int, model: Transformer) -> int:
    """How many of the first rows the next step has; compiled ones become fewer by halves."""
    if not model.compiled_step:
        return needed
    while (drawing + 1) // 2 >= max(needed, 1) and drawing > 1:
        drawing = (drawing + 1) // 2
    return drawing


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
