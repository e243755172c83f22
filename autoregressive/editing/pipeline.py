"""Images and words in, images out: what users import.

    pipeline = EditingPipeline.load(vq_ckpt="vq.pt", gpt_ckpt="nep.pt", t5_path="t5")
    result = pipeline.edit(image, "make the circle blue", mask)[0]
    result.image.save("edited.png")

Letters: B batch, N cells, T text slots, C caption width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autoregressive.decoding.sampling import Sampling
from autoregressive.editing.arguments import (
    as_codes,
    as_inputs,
    as_orders,
    as_prompts,
    as_seeds,
    is_auto,
    require_kind,
    require_mask,
    require_told,
)
from autoregressive.editing.auto_mask_settings import AutoMaskSettings
from autoregressive.editing.composite import changed_region, check_mask, compose
from autoregressive.editing.models import EditingModels, Picture
from autoregressive.editing.options import EditOptions
from autoregressive.editing.results import EditResult, Progress
from dataset.batches import Text
from dataset.edit_masks import full_mask, pool_edit_mask, resize_mask
from runtime.errors import UserError
from runtime.timing import timed

Mask = Image.Image | np.ndarray | Tensor


class EditingPipeline(EditingModels):
    """Tokenizer, transformer and text encoder as one; edits, infills zero-shot and draws from text."""

    @torch.inference_mode()
    def edit(
        self,
        images: Sequence[Picture] | Picture,
        prompts: Sequence[Text] | Text,
        masks: Sequence[Mask | str | None] | Mask | str | None = None,
        *,
        seeds: Sequence[int] | int = 0,
        generator: torch.Generator | None = None,
        num_samples: int = 1,
        source_codes: Tensor | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> list[EditResult]:
        """Regenerates the masked cells of each image.

        Args:
          images: of any size; the model sees them resized to a square. PIL images (taken as viewers show
            them: 8-bit RGB, upright, over white), files' paths, (H, W, 3) arrays or (3, H, W) tensors, or
            (H, W) for grey, of bytes or of floats in [0, 1]. One image, with one prompt and one mask, or a
            list of each, as many.
          prompts: what to do (editing models) or what the result shows (zero-shot): strings or features.
          masks: (H, W) arrays, tensors or PIL images of the image's size, above half of their range = edit;
            None regenerates all; "auto" finds the cells from the prompt (models with marks). These two
            also stand for as many.
          seeds: one a result, or the first of as many; the same seed gives the same result in any batch.
          generator: draws the seeds instead.
          num_samples: results of each image, side by side in the list; they share the prompt's computation.
          source_codes: (B, N) codes of the images where they are known already; encoded anew if None.
          progress: told of each code as it is drawn, see `Progress`.
          options: fields of `EditOptions`: sampling, mode, mask_rule, mask_error, order, random_order,
            composite, auto_mask.
        Raises:
          UserError: a mask that is empty or not its image's size, counts that differ, an unknown choice, a
            string of which cleaning leaves nothing (for no text, give `text_encoder.encode([""])`).
        """
        images, prompts, masks = as_inputs(images, prompts, masks)
        require_told(prompts)
        seeds = as_seeds(seeds, len(images), num_samples, generator)
        require_kind("progress", progress, Callable, "a function")
        how = EditOptions.of(options).over(self.defaults)
        self.token_editor.resolve_mode(how.mode)
        if source_codes is not None:
            vocab_size = self.transformer.config.vocab_size
            source_codes = as_codes(source_codes, len(images), self.grid**2, vocab_size)
        return self._edit(images, prompts, masks, seeds, how, source_codes, progress) if images else []

    def _edit(
        self,
        images: list[Image.Image],
        prompts: list[Text],
        masks: list[Any],
        seeds: list[int],
        how: EditOptions,
        source: Tensor | None,
        progress: Progress | None,
    ) -> list[EditResult]:
        """`edit` of checked arguments, at least one image."""
        auto = torch.tensor([is_auto(mask) for mask in masks])
        given = [None if is_auto(mask) else mask for mask in masks]
        pixel_masks, edit_mask = self.read_masks(images, given, how)
        timings: dict[str, float] = {}
        with timed(timings, "encode", self.device):
            source = self.encode(images) if source is None else source
            text, text_valid = self.encode_texts(prompts)
        if auto.any():
            with timed(timings, "locate", self.device):
                scores = self.locate(source.cpu()[auto], text[auto], text_valid[auto])
                edit_mask[auto] = (how.auto_mask or AutoMaskSettings()).region(scores, self.grid)
        with timed(timings, "generate", self.device):
            drawn = self.token_editor.edit(
                source,
                edit_mask,
                text,
                text_valid,
                seeds,
                how.sampling,
                how.mode,
                order=how.order,
                progress=progress,
            )
        with timed(timings, "decode", self.device):
            decoded = self.decode(drawn.codes)
        results = []
        for i, image in enumerate(decoded):
            asked = i * len(images) // len(seeds)
            cells, pixels = edit_mask[asked], pixel_masks[asked]
            region = changed_region(how.composite, cells, pixels, self.grid, images[asked].size)
            edited = compose(images[asked], image, region)
            results.append(EditResult(edited, drawn.codes[i], cells, region, timings, drawn.num_passes[i]))
        return results

    def read_masks(
        self, images: Sequence[Image.Image | None], masks: Sequence[Mask | None], how: EditOptions
    ) -> tuple[list[Tensor | None], Tensor]:
        """Masks as (H, W) bool, None where there is none, and (B, N) cells, all where there is none.

        Args:
          images: needed where there is a mask.
          how: with its mask rule and error set.
        """
        pixel_masks, edit_masks = [], []
        for number, (mask, image) in enumerate(zip(masks, images, strict=True)):
            require_mask(mask)
            pixels = check_mask(mask, image, "the mask" if len(masks) == 1 else f"mask {number}")
            if pixels is not None:
                pixels = resize_mask(pixels[None], how.mask_error)[0]
            pixel_masks.append(pixels)
            edit_masks.append(
                full_mask(self.grid)
                if pixels is None
                else pool_edit_mask(pixels[None].float(), self.grid, how.mask_rule)
            )
        return pixel_masks, torch.stack(edit_masks)

    @torch.inference_mode()
    def draw(
        self,
        prompts: Sequence[Text] | Text,
        *,
        seeds: Sequence[int] | int = 0,
        generator: torch.Generator | None = None,
        num_samples: int = 1,
        sampling: Sampling | None = None,
        orders: Tensor | str | None = None,
        progress: Progress | None = None,
    ) -> list[Image.Image]:
        """Text to image.

        Args:
          seeds, generator, num_samples, sampling, progress: as in `edit`.
          orders: one of `ORDER_KINDS`, or (B, N) cells in generation order, one row a result; raster order by
            default.
        Raises:
          UserError: an editing model, orders that the model cannot draw in, or a string as in `edit`.
        """
        if self.transformer.config.mask_in_context:
            raise UserError(
                "this model has edit/keep marks: it edits images and cannot draw from text alone; take a "
                "text-to-image model"
            )
        prompts = as_prompts(prompts)
        require_told(prompts)
        seeds = as_seeds(seeds, len(prompts), num_samples, generator)
        require_kind("progress", progress, Callable, "a function")
        how = EditOptions(sampling).over(self.defaults)
        if not prompts:
            return []
        text, text_valid = self.encode_texts(prompts)
        orders = as_orders("raster" if orders is None else orders, seeds, self.grid**2)
        return self.decode(
            self.token_editor.draw(orders, text, text_valid, seeds, how.sampling, progress=progress)
        )

    def locate(self, source: Tensor, text: Tensor, text_valid: Tensor) -> Tensor:
        """Scores each cell for how much the text asks to change it: see `TokenEditor.locate`."""
        return self.token_editor.locate(source, text, text_valid)
