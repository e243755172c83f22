"""Images and words in, images out: what users import.

    pipeline = EditingPipeline.load(vq_ckpt="vq.pt", gpt_ckpt="nep.pt", t5_path="t5")
    result = pipeline.edit(image, "make the circle blue", mask)[0]
    result.image.save("edited.png")

Letters: B batch, N cells, T text slots, C caption width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.arguments import (
    EditOptions,
    OwnSizeMask,
    as_call,
    as_call_seeds,
    as_codes,
    as_inputs,
    as_orders,
    as_prompts,
    as_regions,
    as_seeds,
    is_auto,
    require_kind,
    require_said_once,
    require_told,
)
from autoregressive.editing.auto_mask_settings import AutoMaskSettings
from autoregressive.editing.crop import View, cells_of, results_of, seeds_of_views, views_of
from autoregressive.editing.models import EditingModels, Picture
from autoregressive.editing.pictures import showing_drawings, showing_edits
from autoregressive.editing.results import (
    OUTPUT_TYPES,
    EditResult,
    PipelineOutput,
    Progress,
    as_output,
    numbered,
)
from dataset.batches import Text
from dataset.records.images import as_image
from runtime.devices import timed
from runtime.errors import UserError, require_known

Mask = Image.Image | np.ndarray | Tensor | str | Path
"""A string is a file's path, or "auto"."""


class EditingPipeline(EditingModels):
    """Tokenizer, transformer and text encoder as one; edits, infills zero-shot and draws from text."""

    def __call__(
        self,
        prompt: Sequence[Text] | Text,
        image: Sequence[Picture] | Picture | None = None,
        mask_image: Sequence[Mask | None] | Mask | None = None,
        *,
        num_images_per_prompt: int = 1,
        guidance_scale: float | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        padding_mask_crop: int | None = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        return_dict: bool = True,
        **options: Any,
    ) -> PipelineOutput | tuple:
        """Edits, or without an image draws, by the names that diffusers' inpainting pipelines use.

        Args:
          prompt: one for all images, or a list. A list with one image edits that in several ways.
          image: as `images` of `edit`; also (B, 3, H, W) tensors and (B, H, W, 3) arrays. None draws.
          mask_image: white = edit; as `masks` of `edit`; also (B, 1, H, W) and (1, H, W). One stands for all
            images.
          num_images_per_prompt: pictures of each, side by side.
          guidance_scale: in the place of that of `sampling`.
          generator: draws the seeds, or a list of them, each drawing one; by default new ones in each call.
          output_type: "pil", "np" or "pt", see `PipelineOutput`.
          padding_mask_crop: pixels around the region that the model sees at least: `crop_padding`, with crop
            "region".
          callback_on_step_end: f(pipeline, step, step, {"codes": (B, N)}), called after each pass.
          return_dict: False gives a tuple of the images alone.
          options: `seeds`, and for edits those of `edit`. Unlike there, `crop` is "auto" by default.
        Raises:
          UserError: as `edit` and `draw`, and for a mask without an image.
        """
        require_known("output_type", output_type, OUTPUT_TYPES)
        require_kind("callback_on_step_end", callback_on_step_end, Callable, "a function")
        require_said_once(options, callback_on_step_end, generator)
        prompts, images, masks = as_call(prompt, image, mask_image)
        seeds = options.pop("seeds", None)
        seeds = as_call_seeds(seeds, generator, len(prompts), num_images_per_prompt)
        sampling = options.pop("sampling", None) or self.defaults.sampling
        if guidance_scale is not None:
            sampling = dataclasses.replace(sampling, cfg_scale=guidance_scale)
        common = {"seeds": seeds, "num_samples": num_images_per_prompt, "sampling": sampling}
        if callback_on_step_end is not None:
            common["progress"] = numbered(callback_on_step_end, self)
        if images is None:
            if padding_mask_crop is not None:
                options["padding_mask_crop"] = padding_mask_crop
            if options:
                raise UserError(f"{sorted(options)[0]} is for edits: give an image, or leave it out")
            results, pictures = (), self.draw(prompts, **common)
        else:
            options.setdefault("crop", "auto" if padding_mask_crop is None else "region")
            options.setdefault("crop_padding", padding_mask_crop)
            results = tuple(self.edit(images, prompts, masks, **common, **options))
            pictures = [result.image for result in results]
        output = as_output(pictures, output_type)
        return PipelineOutput(output, results, tuple(seeds)) if return_dict else (output,)

    @torch.inference_mode()
    def edit(
        self,
        images: Sequence[Picture] | Picture,
        prompts: Sequence[Text] | Text,
        masks: Sequence[Mask | None] | Mask | None = None,
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
            arrays or (3, H, W) tensors, or (H, W) for grey, of bytes, or of floats in [0, 1], which become
            bytes. One image, with one prompt and one mask, or a list of each, as many.
          prompts: what to do (editing models) or what the result shows (zero-shot): strings or features.
          masks: (H, W) arrays, tensors, PIL images or files' paths, of the image's size, above half of their
            range = edit; None regenerates all; "auto" finds the cells from the prompt (models with marks).
            These two also stand for as many.
          seeds: one a result, or the first of as many; the same seed gives the same result in any batch.
          generator: draws the seeds instead.
          num_samples: results of each image, side by side in the list; they share the prompt's computation.
          source_codes: (B, N) codes of the images where they are known already, of `EditResult.crops` if they
            are cropped; encoded anew if None.
          progress: told of each code as it is drawn, see `Progress`; a row a crop.
          options: fields of `EditOptions`: sampling, mode, mask_rule, mask_error, order, random_order,
            composite, auto_mask, crop, crop_padding.
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
        with timed(timings, "encode", self.device):
            shown = [self.fit(as_image(images[view.picture].crop(view.window))) for view in views]
            source = self.encode(shown) if source is None else source
        if progress is not None:
            progress = showing_edits(progress, images, views, self.decode, self.grid)
        with timed(timings, "generate", self.device):
            drawn = self.token_editor.edit(
                source,
                torch.stack([view.cells for view in views]),
                text,
                text_valid,
                seeds_of_views(views, seeds),
                how.sampling,
                mode=how.mode,
                order=how.order,
                progress=progress,
            )
        with timed(timings, "decode", self.device):
            decoded = self.decode(drawn.codes)
        return results_of(
            images, views, shown, decoded, drawn, composite=how.composite, grid=self.grid, timings=timings
        )

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
        given = [None if is_auto(mask) else mask for mask in masks]
        regions = as_regions(given, images, how.mask_error)
        found: dict[int, Tensor] = {}
        if how.crop == "none" and not how.mask_error:
            own = {number: mask for number, mask in enumerate(masks) if isinstance(mask, OwnSizeMask)}
            found = {number: cells_of(mask.region, self.grid, how.mask_rule) for number, mask in own.items()}
        with timed(timings, "encode", self.device):
            text, text_valid = self.encode_texts(prompts)
            if source is None and how.crop == "none":
                source = self.encode(images)
        if auto:
            with timed(timings, "locate", self.device):
                whole = self.encode([images[i] for i in auto]) if source is None else source[auto]
                scores = self.locate(whole.cpu(), text[auto], text_valid[auto])
                cells = (how.auto_mask or AutoMaskSettings()).region(scores, self.grid)
                found |= dict(zip(auto, cells, strict=True))
        model = {"how": how, "grid": self.grid, "model_size": self.image_size}
        views: list[View] = []
        for number, (image, region) in enumerate(zip(images, regions, strict=True)):
            views += views_of(number, image.size, region, found.get(number), **model)
        if source is not None and how.crop != "none" and (auto or len(views) > len(images)):
            raise UserError(
                "source_codes are those of what the model sees, one crop of each image: leave them out where "
                "a region is found, or has several parts"
            )
        rows = [view.picture for view in views]
        return views, text[rows], text_valid[rows], source

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
        if progress is not None:
            progress = showing_drawings(progress, self.decode, self.grid)
        return self.decode(
            self.token_editor.draw(orders, text, text_valid, seeds, how.sampling, progress=progress)
        )

    def locate(self, source: Tensor, text: Tensor, text_valid: Tensor) -> Tensor:
        """Scores each cell for how much the text asks to change it: see `TokenEditor.locate`."""
        return self.token_editor.locate(source, text, text_valid)
