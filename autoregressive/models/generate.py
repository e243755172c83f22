"""The decoding loop: a prompt layout, then one slot per new code. Letters as in `autoregressive.layout`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from autoregressive.layout import SequenceLayout, next_step
from autoregressive.models.gpt import Transformer
from autoregressive.models.sampling import Sampling, guide, pick


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
      prompt: what is given; its last slot predicts `orders[:, 0]`.
      text: (B, T, C) caption features.
      orders: (B, K) cells to generate.
      uniforms: (B, ≥ K) numbers in [0, 1) that decide the draws.
      sampling: guidance and truncation.
      counts: how many of its K cells each row needs, at least 1; K for all by default.
      on_code: called with (number of the code, (B,) codes) after each draw; rows that are done give 0.
    Returns:
      (B, K) codes; 0 beyond a row's count, see `place`.
    """
    batch, num_new = orders.shape
    counts = [num_new] * batch if counts is None else list(counts)
    ranking = sorted(range(batch), key=lambda row: -counts[row])
    rows = torch.tensor(ranking, device=orders.device)
    orders, uniforms, text = orders[rows], uniforms[rows], text[rows]
    copies = 2 if sampling.cfg_scale > 1 else 1
    if copies == 2:
        text = torch.stack([text, model.unconditional_text(text)], dim=1).flatten(0, 1)
    layout = prompt.rows(rows.repeat_interleave(copies))
    prompt_length = layout.key_valid.shape[1]
    cache = model.new_cache(copies * batch, prompt_length + num_new - 1)
    key_valid = F.pad(layout.key_valid, (0, cache.length - prompt_length), value=True)
    slots = torch.arange(cache.length, device=orders.device)

    no_text = text[:, :0]
    codes = orders.new_zeros(batch, num_new)
    active, step = batch, 1
    for i in range(num_new):
        if i == 0:
            cache.live = prompt_length
            logits = model(layout, text, cache)[:, -1]
        else:
            logits = model.step(layout, no_text[cache.rows], cache)[:, -1]
        if copies // step == 2:
            logits = guide(logits, sampling.cfg_scale)
        codes[:active, i] = pick(logits, uniforms[:active, i], sampling)
        if on_code is not None:
            on_code(i, torch.zeros_like(codes[:, i]).index_copy_(0, rows, codes[:, i]))
        if i + 1 == num_new:
            break
        active = sum(count > i + 1 for count in counts)
        step = copies if 0 <= sampling.cfg_interval < i else 1  # past the interval: conditional rows only
        cache.rows = slice(0, copies * active, step)
        cache.live = cache.length if model.static_steps else prompt_length + i + 1
        run = copies // step
        layout = next_step(
            codes[:active, i : i + 1].repeat_interleave(run, 0),
            orders[:active, i : i + 1].repeat_interleave(run, 0),
            orders[:active, i + 1 : i + 2].repeat_interleave(run, 0),
            key_valid[cache.rows, : cache.live],
            slots[prompt_length + i : prompt_length + i + 1],
        )
    return torch.empty_like(codes).index_copy_(0, rows, codes)


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
