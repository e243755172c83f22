"""The decoding loop: a prompt layout, then one slot per new code. Letters as in `autoregressive.layout`."""

from __future__ import annotations

from collections.abc import Callable

import torch
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
    on_code: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Draws the codes of the cells in `orders`, in that order.

    Args:
      prompt: what is given; its last slot predicts `orders[:, 0]`.
      text: (B, T, C) caption features.
      orders: (B, K) cells to generate; a row that needs fewer ignores its last ones, see `place`.
      uniforms: (B, ≥ K) numbers in [0, 1) that decide the draws.
      sampling: guidance and truncation.
      on_code: called with (number of the code, (B,) codes) after each draw.
    Returns:
      (B, K) codes.
    """
    batch, num_new = orders.shape
    guided = sampling.cfg_scale > 1
    copies = 2 if guided else 1
    text = torch.cat([text, model.unconditional_text(text)]) if guided else text
    layout = prompt.repeat(copies)
    key_valid, prompt_length = layout.key_valid, layout.key_valid.shape[1]
    cache = model.new_cache(copies * batch, prompt_length + num_new - 1)
    cells = orders.repeat(copies, 1)
    no_text = text[:, :0]
    codes = []
    for i in range(num_new):
        cache.live = prompt_length + i
        logits = model(layout, text if i == 0 else no_text, cache)[:, -1]
        if guided:
            with_guidance = sampling.cfg_interval < 0 or i <= sampling.cfg_interval + 1
            logits = guide(logits, sampling.cfg_scale if with_guidance else 1.0)
        codes.append(pick(logits, uniforms[:, i], sampling))
        if on_code is not None:
            on_code(i, codes[-1])
        if i + 1 < num_new:
            key_valid = torch.cat([key_valid, key_valid.new_ones(len(key_valid), 1)], dim=1)
            drawn = codes[-1].repeat(copies)[:, None]
            layout = next_step(drawn, cells[:, i : i + 1], cells[:, i + 1 : i + 2], key_valid)
    return torch.stack(codes, dim=1)


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
