"""Attention as a layout asks for it, and the caches of keys that it reads.

Letters: B batch, H heads, L slots, M keys, R lanes that run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from autoregressive.sequence.layout import SequenceLayout

if TYPE_CHECKING:  # FlexAttention brings sympy with it, most of a second, for packed rows alone
    from torch.nn.attention.flex_attention import BlockMask

Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(query (B, H, L, head_dim), key and value (B, H, M, head_dim), dropout rate) → (B, H, L, head_dim)."""


class Cache(Protocol):
    """Keys and values of a layer: those of the slots that run now are kept, and those in sight given back."""

    def update(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, L, head_dim) of the slots that run now → (B, H, M, head_dim) of all in their sight."""
        ...


class NoCache:
    """Training and teacher forcing: the keys are the sequence's own."""

    def update(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return key, value


class KVCache:
    """Keys and values of all layers, written slot by slot in the lanes that run; a lane is one sequence's.

    `lanes` (which of them run) and `live` (slots in sight) are set by the decoding loop, which knows them
    without asking the device.
    """

    def __init__(self, store: Tensor) -> None:
        """
        Args:
          store: (layers, 2, lanes, H, M, head_dim), whatever it holds.
        """
        self._store = store
        self.live = 0
        self.lanes = slice(None)

    @property
    def length(self) -> int:
        """Slots there are, live or not."""
        return self._store.shape[4]

    @property
    def num_lanes(self) -> int:
        """Lanes there are, running or not."""
        return self._store.shape[2]

    def update(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes (R, H, L, head_dim) keys and values of the running lanes at (R, L) `slots`.

        Returns:
          Those of the live slots.
        """
        keys, values = self._store[layer][:, self.lanes]
        if slots.shape[1] == 1 and len(slots) == 1:
            keys.index_copy_(2, slots[0], key.to(keys.dtype))
            values.index_copy_(2, slots[0], value.to(values.dtype))
        else:
            lanes = torch.arange(len(slots), device=slots.device)[:, None]
            keys[lanes, :, slots] = key.transpose(1, 2).to(keys.dtype)
            values[lanes, :, slots] = value.transpose(1, 2).to(values.dtype)
        return keys[:, :, : self.live], values[:, :, : self.live]

    def blank_from(self, slot: int) -> None:
        """Zeroes the running lanes from a slot on: what is masked counts nothing, unless it is NaN."""
        self._store[:, :, self.lanes, :, slot:].zero_()

    def spread(self, source: Tensor) -> None:
        """Running lane i becomes what running lane `source[i]` was, in the live slots."""
        # One layer after the other: a copy of the whole may not fit.
        for layer in self._store[:, :, self.lanes, :, : self.live]:
            layer.copy_(layer[:, source])

    def move(self, source: int, target: int) -> None:
        """Lane `target` becomes a copy of lane `source`."""
        self._store[:, :, target].copy_(self._store[:, :, source])


SHORT_ENOUGH_FOR_A_MATRIX = 512 * 512  # scores of one head


def attention_of(layout: SequenceLayout, dtype: torch.dtype) -> Attend:
    """How the slots of `layout` look at each other; made once a forward, for all layers.

    Packed rows are long and most of their slots are strangers: on GPUs a block mask skips these
    (FlexAttention has no backward on CPUs). All else takes a mask for every pair of slots.

    Args:
      dtype: of the model's activations.
    """
    if layout.sample_ids is not None and layout.sample_ids.device.type == "cuda":
        return partial(block_attention, blocks=sample_blocks(layout.sample_ids))
    mask = layout.attention_mask()
    bias = torch.zeros(mask.shape, dtype=_type_of_products(mask.device, dtype), device=mask.device)
    bias.masked_fill_(~mask, -torch.inf)
    if mask.device.type == "cpu" and mask.shape[2] * mask.shape[3] <= SHORT_ENOUGH_FOR_A_MATRIX:
        # On CPUs the fused kernel's backward with a mask takes twice as long as the plain formula.
        return partial(plain_attention, bias=bias)
    return partial(fused_attention, bias=bias)


def _type_of_products(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """What queries and keys are made in, where the activations are of type `dtype`."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else dtype


def fused_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float, bias: Tensor) -> Tensor:
    """Scaled-dot-product attention; `bias`, (B, 1, L, M), is 0 where a slot may look and -inf elsewhere."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)


class _PlainAttention(torch.autograd.Function):
    """The formula of attention; its backward pass keeps one matrix, the shares, in the dtype of `query`.

    By itself autocast would turn the scores to float32 and back, in both passes.
    """

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        with torch.autocast(query.device.type, enabled=False):
            shares = _products(query * query.shape[-1] ** -0.5, key).add_(bias).softmax(-1)
            ctx.save_for_backward(query, key, value, shares)
            return shares @ value

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, shares = ctx.saved_tensors
        to_shares = grad @ value.transpose(-1, -2)
        to_scores = torch._softmax_backward_data(to_shares, shares, -1, shares.dtype)
        to_scores *= query.shape[-1] ** -0.5
        return to_scores @ key, to_scores.transpose(-1, -2) @ query, shares.transpose(-1, -2) @ grad, None


def plain_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float, bias: Tensor) -> Tensor:
    """`fused_attention` by its formula: softmax(Q K^T / sqrt(head_dim) + bias) V."""
    if dropout == 0:
        return _PlainAttention.apply(query, key, value, bias)
    shares = (_products(query * query.shape[-1] ** -0.5, key) + bias).softmax(-1)
    return F.dropout(shares, dropout).to(value.dtype) @ value


def _products(query: Tensor, key: Tensor) -> Tensor:
    """(B, H, L, M); of a single query with the keys on the left, which then are not copied in bfloat16."""
    if query.shape[2] == 1:
        return (key @ query.transpose(-1, -2)).transpose(-1, -2)
    return query @ key.transpose(-1, -2)


def sample_blocks(sample_ids: Tensor) -> BlockMask:
    """The blocks of packed rows, (B, L) sample numbers, in which a slot may look back at its own sample."""
    from torch.nn.attention.flex_attention import create_block_mask

    def allowed(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & (sample_ids[b, q] == sample_ids[b, k])

    batch, length = sample_ids.shape
    on_gpu = sample_ids.device.type == "cuda"
    return create_block_mask(allowed, batch, None, length, length, sample_ids.device, _compile=on_gpu)


def block_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float, blocks: BlockMask) -> Tensor:
    """Attention inside the blocks (FlexAttention: Dong et al. 2024)."""
    from torch.nn.attention.flex_attention import flex_attention

    assert dropout == 0, "FlexAttention has no attention dropout; no model here uses any"
    kernel = _compiled(flex_attention) if query.device.type == "cuda" else flex_attention
    return kernel(query, key, value, block_mask=blocks)


@cache
def _compiled(attention: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(attention, dynamic=True)
