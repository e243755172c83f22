"""The parts of a Llama-style block. Letters: B batch, L slots, M keys, H heads, D width."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autoregressive.models.attention import Attend, Cache
from autoregressive.models.config import ModelConfig


class _RMSNorm(torch.autograd.Function):
    """`RMSNorm`, of which the backward pass keeps the input and one number a slot."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).type_as(x) * weight

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        unit = x.float() * scale
        to_unit = (grad * weight).float()
        to_x = scale * (to_unit - unit * (to_unit * unit).mean(-1, keepdim=True))
        return to_x.type_as(x), (grad * unit.type_as(x)).flatten(0, -2).sum(0).type_as(weight), None


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang & Sennrich 2019), in float32, cast back before the gain."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return _RMSNorm.apply(x, self.weight, self.eps)


class DropPath(nn.Module):
    """Drops a sample's residual branch in training (Huang et al. 2016); kept ones are scaled up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(x.shape[0], 1, 1, device=x.device) >= self.rate
        return x * (kept / (1 - self.rate)).to(x.dtype)


class Attention(nn.Module):
    """Self-attention with a fused projection; what it attends to is up to the cache and `attend`."""

    def __init__(self, dim: int, n_head: int, attn_dropout: float, resid_dropout: float, layer: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.layer = layer
        self.attn_dropout = attn_dropout
        self.wqkv = nn.Linear(dim, 3 * dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)
        self.resid_dropout = nn.Dropout(resid_dropout)

    def forward(
        self, x: Tensor, rotary: Tensor, attend: Attend, slots: Tensor, cache: Cache, num_kept: int
    ) -> Tensor:
        batch, length, dim = x.shape
        qkv = self.wqkv(x).view(batch, length, 3, self.n_head, dim // self.n_head)
        query, key = rotate(qkv[:, :, :2], rotary[:, :, :, None]).transpose(1, 3).unbind(2)
        key, value = cache.update(self.layer, slots, key, qkv[:, :, 2].transpose(1, 2))
        mixed = attend(query, key, value, self.attn_dropout * self.training)
        kept = mixed[:, :, length - num_kept :].transpose(1, 2).reshape(batch, num_kept, dim)
        return self.resid_dropout(self.wo(kept))


class _SwiGLU(torch.autograd.Function):
    """SiLU(gate) · up, of which the backward pass keeps no more than the two."""

    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), grad * F.silu(gate)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)
        self.ffn_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn_dropout(self.w2(_SwiGLU.apply(self.w1(x), self.w3(x))))


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward, each on a residual branch.

    It takes (B, L, D) and gives (B, K, D), the trailing `num_kept` = K slots: all of them but in the last
    layer, whose other slots are read as keys and values only.
    """

    def __init__(self, config: ModelConfig, layer: int, drop_path: float) -> None:
        super().__init__()
        self.attention = Attention(
            config.dim, config.n_head, config.attn_dropout_p, config.resid_dropout_p, layer
        )
        self.feed_forward = FeedForward(config.dim, config.hidden_dim, config.ffn_dropout_p)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Tensor, rotary: Tensor, attend: Attend, slots: Tensor, cache: Cache, num_kept: int
    ) -> Tensor:
        mixed = self.attention(self.attention_norm(x), rotary, attend, slots, cache, num_kept)
        x = x[:, x.shape[1] - num_kept :] + self.drop_path(mixed)
        return x + self.drop_path(self.feed_forward(self.ffn_norm(x)))


class CaptionEmbedder(nn.Module):
    """Caption features to model width; also holds the fixed features of "no caption"."""

    def __init__(self, caption_dim: int, dim: int, num_tokens: int) -> None:
        super().__init__()
        self.cap_proj = nn.ModuleDict(
            {"fc1": nn.Linear(caption_dim, dim, bias=False), "fc2": nn.Linear(dim, dim, bias=False)}
        )
        self.register_buffer("uncond_embedding", torch.randn(num_tokens, caption_dim) / caption_dim**0.5)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, C) → (B, T, D)."""
        return self.cap_proj["fc2"](F.gelu(self.cap_proj["fc1"](features), approximate="tanh"))


def rotary_table(grid: int, head_dim: int, text_rotates_to_zero: bool, base: float) -> Tensor:
    """Cosines and sines for every cell, and for cell -1 in the last row.

    Two-dimensional rotary embedding (Su et al. 2021): the first half of a head's pairs turns with the cell's
    row, the second with its column, by frequencies 1 / base^(2j / (head_dim/2)).

    Args:
      grid: cells per side.
      head_dim: multiple of 4.
      text_rotates_to_zero: the text row is all zeros, as LlamaGen's weights were trained with; else identity.
      base: published 10000.
    Returns:
      (grid² + 1, head_dim / 2, 2) float32.
    """
    half = head_dim // 2
    frequencies = 1.0 / base ** (torch.arange(0, half, 2)[: half // 2].float() / half)
    angles = torch.arange(grid).float()[:, None] * frequencies
    rows = angles[:, None].expand(-1, grid, -1)
    columns = angles[None].expand(grid, -1, -1)
    angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    table = torch.stack([angles.cos(), angles.sin()], dim=-1)
    text = torch.zeros(1, half, 2)
    text[..., 0] = 0.0 if text_rotates_to_zero else 1.0
    return torch.cat([table, text])


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Turns interleaved pairs of the last dimension, in float32.

    Args:
      x: (…, head_dim).
      rotary: (…, head_dim / 2, 2), broadcast against `x`.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # inductor makes no kernels of complex numbers
        even, odd = pairs.unbind(-1)
        cos, sin = rotary.unbind(-1)
        turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    else:  # the same but for rounding, in one pass over the pairs instead of seven
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotary))
    return turned.flatten(-2).type_as(x)


def run_block(block: TransformerBlock, *args) -> Tensor:
    """How a transformer runs its blocks."""
    return block(*args)


def recompute_every(number: int) -> Callable[..., Tensor]:
    """As `run_block`, but the backward pass computes activations again in the place of keeping them.

    Args:
      number: the first of so many blocks is computed again, the others' activations are kept; 1 is all.
    """

    def run(block: TransformerBlock, *args) -> Tensor:
        if block.attention.layer % number or not torch.is_grad_enabled():
            return block(*args)
        return checkpoint(block, *args, use_reentrant=False)

    return run
