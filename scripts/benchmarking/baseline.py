"""The plain slow twin: the same network computed the way the published implementation goes about it.

It shares no code with the project's transformer, only the names of the weights, so that `load_state_dict` of
one serves the other. What makes it slow is kept on purpose:

- text is padded to all 120 slots, in float32;
- attention reads a dense mask, made for each sample;
- caches are allocated for every edit, at full length, then copied to a longer one; every step writes them by
  index, copies them whole and attends to all of them through the mask;
- rotary and position tables of the whole sequence are put together again for every token;
- the output head scores every slot, in float32, and guidance is computed on all of those scores;
- a batch trains with as many edit slots as its largest edit asks for;
- different masks are edited one at a time.

Letters: B batch, T text slots, N cells, K edited cells, L slots, D width, V codes, C caption width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from autoregressive.models.config import ModelConfig


class Norm(nn.Module):
    """Root-mean-square norm."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + self.eps)).type_as(x) * self.weight


class FullCache:
    """Keys and values of one layer over the whole length."""

    def __init__(self, batch: int, heads: int, length: int, head_dim: int, like: Tensor) -> None:
        shape = batch, heads, length, head_dim
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)

    def grow(self, length: int) -> None:
        batch, heads, _, head_dim = self.keys.shape
        more = self.keys.new_zeros(batch, heads, length, head_dim)
        self.keys = torch.cat([self.keys, more], dim=2)
        self.values = torch.cat([self.values, torch.zeros_like(more)], dim=2)

    def update(self, slots: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.keys[:, :, slots] = keys
        self.values[:, :, slots] = values
        return self.keys, self.values


class SlowAttention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.wqkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)
        self.drop = nn.Dropout(config.resid_dropout_p)
        self.cache: FullCache | None = None

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor, slots: Tensor) -> Tensor:
        batch, length, dim = x.shape
        shape = batch, length, self.n_head, dim // self.n_head
        query, key, value = (part.view(shape) for part in self.wqkv(x).split(dim, dim=-1))
        query, key = rotated(query, rotary), rotated(key, rotary)
        query, key, value = (t.transpose(1, 2) for t in (query, key, value))
        if self.cache is not None:
            key, value = self.cache.update(slots, key, value)
        # One key head a query head: the published code repeats them all the same, which copies both.
        key, value = key.repeat_interleave(1, dim=1), value.repeat_interleave(1, dim=1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.drop(self.wo(mixed.transpose(1, 2).contiguous().view(batch, length, dim)))


class SlowFeedForward(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = (int(8 * config.dim / 3) + 255) // 256 * 256
        self.w1 = nn.Linear(config.dim, hidden, bias=False)
        self.w3 = nn.Linear(config.dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, config.dim, bias=False)
        self.drop = nn.Dropout(config.ffn_dropout_p)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.w2(F.silu(self.w1(x)) * self.w3(x)))


class SlowBlock(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention, self.feed_forward = SlowAttention(config), SlowFeedForward(config)
        self.attention_norm = Norm(config.dim, config.norm_eps)
        self.ffn_norm = Norm(config.dim, config.norm_eps)

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor, slots: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotary, mask, slots)
        return x + self.feed_forward(self.ffn_norm(x))


class SlowCaption(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        first = nn.Linear(config.caption_dim, config.dim, bias=False)
        second = nn.Linear(config.dim, config.dim, bias=False)
        self.cap_proj = nn.ModuleDict({"fc1": first, "fc2": second})
        self.register_buffer("uncond_embedding", torch.zeros(config.cls_token_num, config.caption_dim))

    def forward(self, text: Tensor) -> Tensor:
        return self.cap_proj["fc2"](F.gelu(self.cap_proj["fc1"](text), approximate="tanh"))


class SlowTransformer(nn.Module):
    """The `R-GPT-*` network with marks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.any_order, "the twin is an R-GPT"
        self.config = config
        self.cls_embedding = SlowCaption(config)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.tok_dropout = nn.Dropout(config.token_dropout_p)
        self.layers = nn.ModuleList(SlowBlock(config) for _ in range(config.n_layer))
        self.norm = Norm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.target_aware_pos_embed_postfix = nn.Parameter(torch.zeros(1, config.block_size, config.dim))
        if config.mask_in_context:
            self.mask_embedding = nn.Parameter(torch.zeros(1, 1, config.dim))
            self.unmask_embedding = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.causal: Tensor | None = None
        self.angles: Tensor | None = None

    def run(self, x: Tensor, rotary: Tensor, mask: Tensor, slots: Tensor) -> Tensor:
        """(B, L, D) slot inputs → (B, L, V) float32 scores of every slot."""
        for layer in self.layers:
            x = layer(x, rotary, mask, slots)
        return self.output(self.norm(x)).float()

    def tables(self, orders: Tensor, num_rasters: int) -> tuple[Tensor, Tensor]:
        """Rotary (B, L, head_dim/2, 2) and position (B, L-1, D) tables of text · rasters · cells in order."""
        batch, text_slots = len(orders), self.config.cls_token_num
        raster = self.angles.unsqueeze(0).repeat(batch, 1, 1, 1)
        text = torch.zeros_like(raster[:, :1]).repeat(1, text_slots, 1, 1)
        text[..., 0] = 1.0  # not turned
        rows = torch.arange(batch, device=orders.device)[:, None]
        rotary = torch.cat([text, *[raster] * num_rasters, raster[rows, orders]], dim=1)
        table = self.target_aware_pos_embed_postfix.repeat(batch, 1, 1)
        nothing = table.new_zeros(batch, text_slots - 1, table.shape[2])
        return rotary, torch.cat([nothing, *[table] * num_rasters, table[rows, orders]], dim=1)

    def make_angles(self) -> Tensor:
        """(N, head_dim/2, 2) cosines and sines of each cell's row and column."""
        grid, half = self.config.grid, self.config.dim // self.config.n_head // 2
        device = self.output.weight.device
        steps = 1.0 / 10000 ** (torch.arange(0, half, 2, device=device).float() / half)
        turns = torch.outer(torch.arange(grid, device=device).float(), steps)
        both = turns[:, None].expand(-1, grid, -1), turns[None].expand(grid, -1, -1)
        angles = torch.cat(both, dim=-1)
        return torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(0, 1)

    def marks(self, edit_mask: Tensor) -> Tensor:
        """(B, N) bool raster → (B, N, D) marks."""
        keep = self.unmask_embedding.repeat(*edit_mask.shape, 1)
        chosen = edit_mask.unsqueeze(-1).repeat(1, 1, keep.shape[2])
        return keep.masked_scatter(chosen, self.mask_embedding.expand_as(keep))

    def set_up_caches(self, text_valid: Tensor, num_new: int) -> None:
        """Caches and masks of one edit: for text and source first, then longer by the marks and new codes.

        Args:
          text_valid: (B, T) bool, guidance's rows included.
        """
        c, like = self.config, self.tok_embeddings.weight
        batch, text_slots = text_valid.shape
        first, more = text_slots + c.block_size, c.block_size + num_new
        causal = torch.tril(torch.ones(first, first, dtype=torch.bool, device=like.device))
        causal = causal.unsqueeze(0).repeat(batch, 1, 1)
        causal[:, :, :text_slots] = causal[:, :, :text_slots] * text_valid.unsqueeze(1)
        eye = torch.eye(first, device=like.device)
        causal[:] = causal * (1 - eye) + eye
        longer = torch.tril(torch.ones(first + more, first + more, dtype=torch.bool, device=like.device))
        self.causal = longer.unsqueeze(0).repeat(batch, 1, 1)
        self.causal[:, :first, :first] = causal
        self.causal[:, first:, :first] = causal[:, -1:].repeat(1, more, 1)
        self.angles = self.make_angles()
        for layer in self.layers:
            head_dim = c.dim // c.n_head
            layer.attention.cache = FullCache(batch, c.n_head, first, head_dim, like)
            layer.attention.cache.grow(more)

    def drop_caches(self) -> None:
        self.causal = None
        for layer in self.layers:
            layer.attention.cache = None

    def prefill(self, text: Tensor, source: Tensor, edit_mask: Tensor, orders: Tensor) -> Tensor:
        """Scores (B, L, V) of text · source · marks; see `set_up_caches`."""
        rotary, position = self.tables(orders, 2)
        given = torch.cat([self.cls_embedding(text), self.tok_embeddings(source)], dim=1)
        x = torch.cat([self.tok_dropout(given), self.marks(edit_mask)], dim=1)
        slots = torch.arange(x.shape[1], device=x.device)
        x = x + position[:, slots]
        return self.run(x, rotary[:, slots], self.causal[:, None, slots], slots)

    def step(self, code: Tensor, slots: Tensor, orders: Tensor) -> Tensor:
        """Scores (B, 1, V) after one more code (B, 1) in slot `slots` (1,)."""
        rotary, position = self.tables(orders, 2)
        x = self.tok_dropout(self.tok_embeddings(code)) + position[:, slots]
        with sdpa_kernel(SDPBackend.MATH):  # as published: the fused kernels are turned off for decoding
            return self.run(x, rotary[:, slots], self.causal[:, None, slots], slots)

    def training_loss(
        self, text: Tensor, target: Tensor, orders: Tensor, weight: Tensor, mask: Tensor, **edit: Tensor
    ) -> Tensor:
        """Mean cross-entropy of one batch of what the slow loader ships.

        Args:
          text: (B, 120, C).
          target: (B, N) raster codes to predict.
          orders: (B, N) cells in order of prediction, for an edit the edited ones first.
          weight: (B, N) 1 where `orders` is to be learned.
          mask: (B, 1, L, L) bool.
          edit: `source` (B, N) raster codes and `edit_mask` (B, N) bool raster; neither for text to image.
        """
        longest = int(weight.sum(0).nonzero()[-1]) + 1
        orders, weight = orders[:, :longest], weight[:, :longest]
        self.angles = self.make_angles()
        rows = torch.arange(len(text), device=text.device)[:, None]
        given = [self.cls_embedding(text)] + ([self.tok_embeddings(edit["source"])] if edit else [])
        num_given = sum(part.shape[1] for part in given)
        x = self.tok_dropout(torch.cat([*given, self.tok_embeddings(target)], dim=1))
        image = x[:, num_given:][rows, orders][:, :-1]  # the last code of all is only a target
        parts = [x[:, :num_given]] + ([self.marks(edit["edit_mask"]).type_as(x)] if edit else [])
        num_given = sum(part.shape[1] for part in parts)
        rotary, position = self.tables(orders, 2 if edit else 0)
        x = torch.cat([*parts, image], dim=1)
        length = x.shape[1]
        slots = torch.arange(length, device=x.device)
        scores = self.run(x + position, rotary[:, :length], mask[:, :, :length, :length], slots)
        scores = scores[:, num_given - 1 :].contiguous()
        losses = F.cross_entropy(scores.flatten(0, 1), target[rows, orders].flatten(), reduction="none")
        return (losses * weight.flatten()).sum() / weight.sum().clamp(min=1)


def rotated(x: Tensor, rotary: Tensor) -> Tensor:
    """Turns the pairs of (B, L, H, head_dim) by (B, L, head_dim/2, 2)."""
    pairs, turn = x.float().unflatten(-1, (-1, 2)), rotary.unsqueeze(2)
    first = pairs[..., 0] * turn[..., 0] - pairs[..., 1] * turn[..., 1]
    second = pairs[..., 1] * turn[..., 0] + pairs[..., 0] * turn[..., 1]
    return torch.stack([first, second], dim=-1).flatten(-2).type_as(x)
