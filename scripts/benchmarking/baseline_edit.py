"""Editing with the plain slow twin: one mask at a time, fresh caches, guidance on all scores.

Letters as in `baseline.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scripts.benchmarking.baseline import SlowTransformer


@torch.no_grad()
def slow_edit(
    model: SlowTransformer,
    source: Tensor,
    edit_mask: Tensor,
    text: Tensor,
    text_valid: Tensor,
    choose: Callable[[Tensor], Tensor],
    *,
    scale: float,
    on_event: Callable[[str], None] = lambda name: None,
) -> Tensor:
    """One edit.

    Args:
      source: (1, N) raster codes.
      edit_mask: (1, N) bool raster.
      text, text_valid: (1, 120, C) and (1, 120), padded at the left.
      choose: (1, V) scores → (1, 1) codes.
      scale: guidance; 1 for none.
      on_event: told "caches" when they stand, then "code" after every code.
    Returns:
      (1, N) raster codes.
    """
    assert len(source) == 1, "different masks are edited one at a time"
    copies = 2 if scale > 1 else 1
    if copies == 2:
        text = torch.cat([text, torch.zeros_like(text) + model.cls_embedding.uncond_embedding.to(text)])
    orders = torch.arange(source.shape[1], device=source.device)[edit_mask[0]][None].repeat(copies, 1)
    num_new = orders.shape[1]
    model.set_up_caches(text_valid.repeat(copies, 1), num_new)
    on_event("caches")
    scores = model.prefill(text, source.repeat(copies, 1), edit_mask.repeat(copies, 1), orders)
    codes = [choose(guided(scores, copies, scale)[:, -1])]
    on_event("code")
    slots = torch.tensor([scores.shape[1]], device=source.device)
    for _ in range(num_new - 1):
        scores = model.step(codes[-1].repeat(copies, 1), slots, orders)
        codes.append(choose(guided(scores, copies, scale)[:, -1]))
        slots = slots + 1
        on_event("code")
    model.drop_caches()
    edited = source.clone()
    edited[:, orders[0]] = torch.cat(codes, dim=1)
    return edited


def guided(scores: Tensor, copies: int, scale: float) -> Tensor:
    if copies == 1:
        return scores
    conditional, unconditional = scores.chunk(2)
    return unconditional + (conditional - unconditional) * scale


def sample(scores: Tensor, top_k: int = 1000) -> Tensor:
    """Draws one code of the `top_k` likeliest: (B, V) → (B, 1)."""
    smallest = scores.topk(min(top_k, scores.shape[-1])).values[:, -1:]
    scores = scores.masked_fill(scores < smallest, float("-inf"))
    return torch.multinomial(scores.softmax(-1), 1)


def greedy(scores: Tensor) -> Tensor:
    return scores.argmax(-1, keepdim=True)
