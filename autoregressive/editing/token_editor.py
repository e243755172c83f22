"""Editing, drawing and locating in codes: what `EditingPipeline` does between encoding and decoding.

Letters: P sources or prompts, B results (B / P of each, side by side), N cells, T text slots, C caption
width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autoregressive.decoding.batch import NOT_FINITE
from autoregressive.decoding.engine import Drawn, Engine, OnPass, guesses_of, place
from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.decoding.shared import SharedEngine
from autoregressive.editing.auto_mask import edit_scores
from autoregressive.editing.choices import MODES
from autoregressive.editing.results import Progress, tell_progress
from autoregressive.models.gpt import Transformer, evaluating
from autoregressive.sequence.builders import editing_prompt, infill_prompt, t2i_prompt
from autoregressive.sequence.layout import Prompt
from autoregressive.sequence.orders import drawing_orders
from runtime.errors import UserError, require_known


class TokenEditor:
    """A transformer with its engine, told in codes what to edit and what to draw."""

    def __init__(self, transformer: Transformer, *, pack: bool = False) -> None:
        """
        Args:
          pack: for a transformer that is not trained, see `Engine`.
        """
        self.transformer = transformer
        self.engine = Engine(transformer, pack=pack)
        self.shared: SharedEngine | None = None
        """Decodes in the engine's place while calls share passes."""
        self.num_cells = transformer.config.block_size

    def __getstate__(self) -> dict[str, Any]:
        """For `pickle` and `deepcopy`: a copy shares no passes."""
        return self.__dict__ | {"shared": None}

    def with_transformer(self, transformer: Transformer) -> TokenEditor:
        """The same with another transformer: packed and compiled as this one's is."""
        other = TokenEditor(transformer, pack=self.engine.packed)
        if self.engine.compiled:
            other.engine.compile_steps()
        return other

    def resolve_mode(self, wanted: str | None = None) -> str:
        """How this model edits, one of `MODES`; by default "marks" if it has them, else "zero_shot".

        Raises:
          UserError: a model for raster order alone; a mode that is unknown or does not fit the model.
        """
        if not self.transformer.config.any_order:
            raise UserError(
                "this is a raster-order GPT model, which can only draw whole images: editing, or drawing "
                "cells again, needs an any-order model (R-GPT)"
            )
        marked = self.transformer.config.mask_in_context
        mode = ("marks" if marked else "zero_shot") if wanted is None else wanted
        require_known("mode", mode, MODES)
        if marked != (mode == "marks"):
            has = "has" if marked else "has no"
            raise UserError(f"mode {mode!r} does not fit this model, which {has} edit/keep marks")
        return mode

    def edit(
        self,
        source: Tensor,
        edit_mask: Tensor,
        text: Tensor,
        text_valid: Tensor,
        seeds: Sequence[int],
        sampling: Sampling,
        mode: str | None = None,
        *,
        order: str = "raster",
        progress: Progress | None = None,
    ) -> Drawn:
        """(P, N) source codes → (B, N) codes on the CPU, kept cells unchanged.

        Args:
          edit_mask: (P, N) bool, at least one True a row.
          text, text_valid: (P, T, C) and (P, T), left-padded.
          seeds: B of them, B / P for each source in turn.
          mode: one of `MODES`, see `resolve_mode`.
          order: of the edited cells, one of `ORDER_KINDS`.
        """
        mode = self.resolve_mode(mode)
        source, edit_mask = source.cpu(), edit_mask.cpu()
        num_samples = len(seeds) // len(source)
        masks = edit_mask.repeat_interleave(num_samples, 0)
        counts = masks.sum(1)
        orders = drawing_orders(order, list(seeds), masks)[:, : int(counts.max())]
        first = orders[::num_samples]
        if mode == "zero_shot":
            prompt = infill_prompt(source, edit_mask, first, text_valid)
        else:
            vocab = self.transformer.config.vocab_size
            prompt = editing_prompt(source, edit_mask, first, text_valid, vocab, marks=mode == "marks")
        sources = source.repeat_interleave(num_samples, 0)
        guesses = guesses_of(sampling, sources, orders)
        on_pass = None if progress is None else tell_progress(progress, sources, orders, counts)
        asked = {"counts": counts.tolist(), "guesses": guesses, "on_pass": on_pass}
        drawn = self.generate(prompt, text, orders, seeds, sampling, **asked)
        return Drawn(place(drawn.codes.cpu(), orders, counts, sources), drawn.num_passes)

    def draw(
        self,
        orders: Tensor,
        text: Tensor,
        text_valid: Tensor,
        seeds: Sequence[int],
        sampling: Sampling,
        *,
        progress: Progress | None = None,
    ) -> Tensor:
        """Whole images from P texts: (B, N) codes, on the model's device.

        Args:
          orders: (B, N) cells in generation order.
          text, text_valid, seeds: as in `edit`.
        Raises:
          UserError: orders that a raster-order model cannot draw in.
        """
        raster = torch.arange(self.num_cells).expand_as(orders)
        if not self.transformer.config.any_order and not torch.equal(orders, raster):
            raise UserError(
                "this is a raster-order GPT model: leave out the orders, or take an any-order model (R-GPT)"
            )
        blank = torch.zeros_like(orders)
        prompt = t2i_prompt(orders[:: len(seeds) // len(text)], text_valid)
        on_pass = None if progress is None else tell_progress(progress, blank, orders)
        drawn = self.generate(prompt, text, orders, seeds, sampling, on_pass=on_pass).codes
        return blank.to(drawn.device).scatter(1, orders.to(drawn.device), drawn)

    def generate(
        self,
        prompt: Prompt,
        text: Tensor,
        orders: Tensor,
        seeds: Sequence[int],
        sampling: Sampling,
        *,
        counts: Sequence[int] | None = None,
        guesses: Tensor | None = None,
        on_pass: OnPass | None = None,
    ) -> Drawn:
        """`Engine.generate` of what lies on any device, its codes on the model's.

        Raises:
          UserError: the model's numbers are not finite.
        """
        weight = self.transformer.tok_embeddings.weight
        with evaluating(self.transformer):
            drawn = (self.shared or self.engine).generate(
                prompt.to(weight.device),
                text.to(weight),
                orders.to(weight.device),
                seeds,
                sampling,
                counts=counts,
                guesses=None if guesses is None else guesses.to(weight.device),
                on_pass=on_pass,
            )
        self._require_finite(drawn.codes != NOT_FINITE)
        return drawn

    def locate(self, source: Tensor, text: Tensor, text_valid: Tensor) -> Tensor:
        """Scores each cell for how much the text asks to change it; `AutoMaskSettings.region` decides.

        Args:
          source: (P, N) codes.
          text, text_valid: (P, T, C) and (P, T), left-padded.
        Returns:
          (P, N) float32 nats on the CPU, see `edit_scores`.
        Raises:
          UserError: the model has no marks, or its numbers are not finite.
        """
        scores = edit_scores(self.transformer, source, text, text_valid)
        self._require_finite(scores.isfinite())
        return scores

    def _require_finite(self, finite: Tensor) -> None:
        if not finite.all():
            raise UserError(
                f"the model gives NaN or infinity in {self.transformer.dtype}: take --precision none "
                "(float32); if it does so there too, its weights or the text features are damaged"
            )
