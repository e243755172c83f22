"""The transformer: one class for LlamaGen's raster `GPT-*` and the any-order `R-GPT-*`, one forward for all.

Letters: B batch, T text slots, S image slots, L = T + S, K predictions, N cells, V codes, C caption width,
D model width. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoregressive.models.attention import Cache, NoCache, attention_of
from autoregressive.models.config import GPT_MODELS, ModelConfig
from autoregressive.models.layers import CaptionEmbedder, RMSNorm, TransformerBlock, rotary_table, run_block
from autoregressive.sequence.layout import SequenceLayout


def build_gpt(name: str, **overrides) -> Transformer:
    """Builds a model of the registry.

    Args:
      name: a key of `GPT_MODELS`.
      overrides: fields of `ModelConfig` to change.
    """
    return Transformer(replace(GPT_MODELS[name], **overrides))


class Transformer(nn.Module):
    """Next-slot prediction over a `SequenceLayout`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        if config.grid**2 != config.block_size:
            raise ValueError(f"block_size {config.block_size} is not a square number of cells")
        self.cls_embedding = CaptionEmbedder(config.caption_dim, config.dim, config.cls_token_num)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.tok_dropout = nn.Dropout(config.token_dropout_p)
        last = max(config.n_layer - 1, 1)  # drop-path grows linearly from 0 at the first layer
        self.layers = nn.ModuleList(
            TransformerBlock(config, i, config.drop_path_rate * i / last) for i in range(config.n_layer)
        )
        self.run_block = run_block  # or what `recompute_every` gives
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        # What a model lacks is a table of zeros, not a branch in the forward.
        self._add_table("target_aware_pos_embed_postfix", config.block_size, config.any_order)
        self._add_table("unmask_embedding", 1, config.mask_in_context)
        self._add_table("mask_embedding", 1, config.mask_in_context)
        # Begins at zero: a model with it starts from the very function, and the draws, of one without.
        self._add_table("own_cell_embedding", config.block_size, config.own_cell, std=0.0)
        self.register_buffer("rotary", self._rotary_table(), persistent=False)
        self._initialise()

    def _rotary_table(self) -> Tensor:
        config = self.config
        head_dim = config.dim // config.n_head
        return rotary_table(config.grid, head_dim, not config.any_order, config.rotary_base)

    def _apply(self, fn, recurse: bool = True):
        """Every `.to(…)` goes through here: the angles stay float32 in a half-precision model."""
        super()._apply(fn, recurse)
        self.rotary = self._rotary_table().to(self.rotary.device)
        return self

    def _add_table(self, name: str, rows: int, learned: bool, std: float = 0.02) -> None:
        table = torch.zeros(1, rows, self.config.dim)
        if learned and std:
            nn.init.trunc_normal_(table, std=std)
        if learned:
            self.register_parameter(name, nn.Parameter(table))
        else:
            self.register_buffer(name, table, persistent=False)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(self.output.weight)

    def forward(self, layout: SequenceLayout, text: Tensor, cache: Cache | None = None) -> Tensor:
        """Scores the codes of the predicted cells.

        Args:
          layout: what stands where; see `SequenceLayout`.
          text: (B, T, C) caption features, T = 0 in a decoding step.
          cache: keeps the keys and values of these slots and gives those of earlier ones; none by default.
        Returns:
          (B, K, V) logits.
        """
        return self.output(self.hidden(layout, text, cache))

    def hidden(self, layout: SequenceLayout, text: Tensor, cache: Cache | None = None) -> Tensor:
        """What `forward` gives to the output head: (B, K, D)."""
        cache = cache or NoCache()
        x = self.embed(layout, text)
        turns = torch.stack([getattr(layout, self.config.query_turn), layout.cells], dim=2)
        rotary = self.rotary[turns]  # of query and key
        attend = attention_of(layout, x.dtype)
        kept = [x.shape[1]] * (len(self.layers) - 1) + [layout.num_predictions]
        for layer, num_kept in zip(self.layers, kept, strict=True):
            x = self.run_block(layer, x, rotary, attend, layout.slots, cache, num_kept)
        return self.norm(x)

    def embed(self, layout: SequenceLayout, text: Tensor) -> Tensor:
        """(B, L, D) slot inputs: content, dropped out where it is not a mark, plus the cells' rows."""
        vocab = self.config.vocab_size
        is_mark = (layout.token_ids >= vocab)[..., None]
        codes = self.tok_embeddings(layout.token_ids.clamp(max=vocab - 1))
        marks = torch.where((layout.token_ids > vocab)[..., None], self.mask_embedding, self.unmask_embedding)
        image = torch.where(is_mark, marks, self.tok_dropout(codes))
        caption = self.tok_dropout(self.cls_embedding(text).to(image.dtype))
        position = rows_of(self.target_aware_pos_embed_postfix, layout.next_cells)
        position = position + rows_of(self.own_cell_embedding, layout.cells)
        return layout.arrange(caption, image) + position

    def unconditional_text(self, text: Tensor) -> Tensor:
        """(B, T, C) of "no caption" in place of `text`: the last T rows of the fixed embedding."""
        fixed = self.cls_embedding.uncond_embedding
        if text.shape[1] > len(fixed):
            raise ValueError(f"{text.shape[1]} text slots, but the model knows {len(fixed)}")
        return fixed[len(fixed) - text.shape[1] :].to(text.dtype).expand_as(text)

    @property
    def device(self) -> torch.device:
        return self.tok_embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.tok_embeddings.weight.dtype


def rows_of(table: Tensor, cells: Tensor) -> Tensor:
    """(B, L, D) the rows of a (1, N, D) table that (B, L) cells name; cell -1 gets zeros."""
    padded = F.pad(table[0], (0, 0, 0, 1))
    return F.embedding(cells % padded.shape[0], padded)


_EVALUATING = threading.Lock()
_evaluated: WeakKeyDictionary[nn.Module, tuple[int, bool]] = WeakKeyDictionary()  # blocks; training before


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout inside; as before once the last block has ended, of whichever thread."""
    with _EVALUATING:
        blocks, training = _evaluated.get(model, (0, model.training))
        _evaluated[model] = blocks + 1, training
        model.eval()
    try:
        yield
    finally:
        with _EVALUATING:
            blocks, training = _evaluated.pop(model)
            if blocks > 1:
                _evaluated[model] = blocks - 1, training
            else:
                model.train(training)
