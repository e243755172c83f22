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
from autoregressive.editing.composite import as_image, check_mask
from autoregressive.editing.crop import View, paste, seeds_of_views, views_of
from autoregressive.editing.models import EditingModels, Picture
from autoregressive.editing.options import EditOptions
from autoregressive.editing.results import Crop, EditResult, Progress
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
          images: of any size; the model sees them resized to a square, or squares of them (`crop`). PIL
            images (taken as viewers show them: 8-bit RGB, upright, over white), files' paths, (H, W, 3)
            arrays or (3, H, W) tensors, or (H, W) for grey, of bytes or of floats in [0, 1]. One image, with
            one prompt and one mask, or a list of each, as many.
          prompts: what to do (editing models) or what the result shows (zero-shot): strings or features.
          masks: (H, W) arrays, tensors or PIL images of the image's size, above half of their range = edit;
            None regenerates all; "auto" finds the cells from the prompt (models with marks). These two
            also stand for as many.
          seeds: one a result, or the first of as many; the same seed gives the same result in any batch.
          generator: draws the seeds instead.
          num_samples: results of each image, side by side in the list; they share the prompt's computation.
          source_codes: (B, N) codes of the images where they are known already, of `EditResult.crops` if they
            are cropped; encoded anew if None.
          progress: told of each code as it is drawn, see `Progress`; a row a crop.
          options: fields of `EditOptions`: sampling, mode, mask_rule, mask_error, random_order, composite,
            auto_mask, crop, crop_padding.
        Raises:
          UserError: a mask that is empty or not its image's size, counts that differ, an unknown choice, a
            string of which cleaning leaves nothing (for no text, give `text_encoder.encode([""])`).
        """
        how = EditOptions.of(options).over(self.defaults)
        images, prompts, masks = as_inputs(images, prompts, masks, native=how.crop != "none")
        require_told(prompts)
        seeds = as_seeds(seeds, len(images), num_samples, generator)
        require_kind("progress", progress, Callable, "a function")
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
        timings: dict[str, float] = {}
        views, text, text_valid, source = self._look(images, prompts, masks, how, source, timings)
        num_samples = len(seeds) // len(images)
        with timed(timings, "encode", self.device):
            shown = [self.fit(as_image(images[view.picture].crop(view.window))) for view in views]
            source = self.encode(shown) if source is None else source
        with timed(timings, "generate", self.device):
            codes = self.token_editor.edit(
                source,
                torch.stack([view.cells for view in views]),
                text,
                text_valid,
                seeds_of_views(views, seeds, num_samples),
                how.sampling,
                how.mode,
                random_order=how.random_order,
                progress=progress,
            )
        with timed(timings, "decode", self.device):
            decoded = self.decode(codes)
        results = []
        for i in range(len(seeds)):
            rows = {
                number * num_samples + i % num_samples: view
                for number, view in enumerate(views)
                if view.picture == i // num_samples
            }
            pictures = [decoded[row] for row in rows]
            image, region = paste(
                images[i // num_samples], list(rows.values()), pictures, how.composite, self.grid
            )
            crops = (
                Crop(tuple(view.window), shown[row // num_samples], codes[row], view.cells)
                for row, view in rows.items()
            )
            results.append(EditResult(image, region, timings, tuple(crops)))
        return results

    def _look(
        self,
        images: list[Image.Image],
        prompts: list[Text],
        masks: list[Any],
        how: EditOptions,
        source: Tensor | None,
        timings: dict[str, float],
    ) -> tuple[list[View], Tensor, Tensor, Tensor | None]:
        """What the model is to see of the images, in their order, and to read: V views.

        Returns:
          The views; text (V, T, C) and (V, T), left-padded; (V, N) source codes as far as they are known.
        """
        auto = [number for number, mask in enumerate(masks) if is_auto(mask)]
        regions = self.read_regions(images, [None if is_auto(mask) else mask for mask in masks], how)
        found: dict[int, Tensor] = {}
        with timed(timings, "encode", self.device):
            text, text_valid = self.encode_texts(prompts)
            if source is None and how.crop == "none":
                source = self.encode(images)
        if auto:
            with timed(timings, "locate", self.device):
                whole = self.encode([images[i] for i in auto]) if source is None else source[auto]
                scores = self.locate(whole.cpu(), text[auto], text_valid[auto])
                found = dict(zip(auto, how.auto_mask.region(scores, self.grid), strict=True))
        views = [
            view
            for number, (image, region) in enumerate(zip(images, regions, strict=True))
            for view in views_of(
                number, image.size, region, found.get(number), how, self.grid, self.image_size
            )
        ]
        if source is not None and how.crop != "none" and (auto or len(views) > len(images)):
            raise UserError(
                "source_codes are those of what the model sees, one crop of each image: leave them out where "
                "a region is found, or has several parts"
            )
        rows = [view.picture for view in views]
        return views, text[rows], text_valid[rows], source

    def read_masks(
        self, images: Sequence[Image.Image | None], masks: Sequence[Mask | None], how: EditOptions
    ) -> tuple[list[Tensor | None], Tensor]:
        """Masks as (H, W) bool, None where there is none, and (B, N) cells, all where there is none.

        Args:
          images: needed where there is a mask.
          how: with its mask rule and error set.
        """
        regions = self.read_regions(images, masks, how)
        cells = [
            full_mask(self.grid)
            if region is None
            else pool_edit_mask(region[None].float(), self.grid, how.mask_rule)
            for region in regions
        ]
        return regions, torch.stack(cells)

    def read_regions(
        self, images: Sequence[Image.Image | None], masks: Sequence[Mask | None], how: EditOptions
    ) -> list[Tensor | None]:
        """Masks as (H, W) bool, widened as `how` says; None where there is none.

        Args:
          images: needed where there is a mask.
        """
        regions = []
        for number, (mask, image) in enumerate(zip(masks, images, strict=True)):
            require_mask(mask)
            region = check_mask(mask, image, "the mask" if len(masks) == 1 else f"mask {number}")
            regions.append(None if region is None else resize_mask(region[None], how.mask_error)[0])
        return regions

    @torch.inference_mode()
    def draw(
        self,
        prompts: Sequence[Text] | Text,
        *,
        seeds: Sequence[int] | int = 0,
        generator: torch.Generator | None = None,
        num_samples: int = 1,
        sampling: Sampling | None = None,
        orders: Tensor | None = None,
        progress: Progress | None = None,
    ) -> list[Image.Image]:
        """Text to image.

        Args:
          seeds, generator, num_samples, sampling, progress: as in `edit`.
          orders: (B, N) cells in generation order, one row a result; raster order by default.
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
        num_cells = self.grid**2
        raster = torch.arange(num_cells).expand(len(seeds), -1)
        orders = raster if orders is None else as_orders(orders, len(seeds), num_cells)
        return self.decode(
            self.token_editor.draw(orders, text, text_valid, seeds, how.sampling, progress=progress)
        )

    def locate(self, source: Tensor, text: Tensor, text_valid: Tensor) -> Tensor:
        """Scores each cell for how much the text asks to change it: see `TokenEditor.locate`."""
        return self.token_editor.locate(source, text, text_valid)
