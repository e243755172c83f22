"""Images and words in, images out: what users import.

    pipeline = EditingPipeline.load(vq_ckpt="vq.pt", gpt_ckpt="nep.pt", t5_path="t5")
    result = pipeline.edit(image, "make the circle blue", mask)[0]
    result.image.save("edited.png")

Letters: B batch, N cells, T text slots, C caption width, S side of the model's images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autoregressive.arguments import (
    as_codes,
    as_inputs,
    as_orders,
    as_prompts,
    as_seeds,
    is_auto,
    require_kind,
    require_mask,
    require_told,
    whole,
)
from autoregressive.auto_mask import AutoMaskSettings, edit_scores
from autoregressive.composite import (
    COMPOSITES,
    as_image,
    changed_region,
    check_mask,
    compose,
)
from autoregressive.layout import (
    SequenceLayout,
    editing_prompt,
    infill_prompt,
    random_orders,
    raster_edit_order,
    t2i_prompt,
)
from autoregressive.models.generate import NOT_FINITE, generate, place
from autoregressive.models.gpt import GPT_MODELS, Transformer, evaluating
from autoregressive.models.packed_linear import pack_linears, unpack_linears
from autoregressive.models.sampling import Sampling, seeded_uniforms
from autoregressive.models.weights import load_transformer
from autoregressive.pretrained import Defaults, load_pretrained, push_folder, save_pretrained
from dataset.edit_masks import RULES, full_mask, pool_edit_mask, resize_mask
from dataset.samples import Text
from dataset.transforms import image_to_tensor
from language.t5 import DEFAULT_T5, T5Encoder, encode_texts, resolve_t5
from language.text_features import stack_text_features
from runtime.errors import UserError
from runtime.timing import timed
from tokenizer.tokenizer_image.vq_model import VQ_MODELS, VQModel, load_vq_model

Picture = Image.Image | np.ndarray | Tensor | str | Path
Mask = Image.Image | np.ndarray | Tensor
MODES = ("marks", "no_marks", "zero_shot")


@dataclass(frozen=True)
class Drawing:
    """Results as far as they are drawn; its (B, N) raster tensors change with the next step.

    Attributes:
      step, num_steps: codes of each result drawn so far, and those of the largest region.
      codes: the source's where nothing is drawn, 0 where there is no source.
      drawn, to_draw: bool cells.
    """

    step: int
    num_steps: int
    codes: Tensor
    drawn: Tensor
    to_draw: Tensor


Progress = Callable[[Drawing], None]
"""Called after each step."""


@dataclass(frozen=True)
class EditResult:
    """One edit.

    Attributes:
      image: at the source's size; outside `region` every pixel is the source's (but for composite "none").
      codes: (N,) int64 raster codes after the edit.
      edit_mask: (N,) bool raster, the cells that were generated.
      region: (H, W) bool, the pixels that were free to change.
      timings: seconds of the batch's "encode", "generate" and "decode", and "locate" if a mask was "auto".
    """

    image: Image.Image
    codes: Tensor
    edit_mask: Tensor
    region: Tensor
    timings: dict[str, float]


class EditingPipeline:
    """Tokenizer, transformer and text encoder as one; edits, infills zero-shot and draws from text."""

    def __init__(self, tokenizer: VQModel, transformer: Transformer, text_encoder: T5Encoder | None) -> None:
        """
        Args:
          text_encoder: None if every text comes as features.
        """
        self.tokenizer, self.transformer, self.text_encoder = tokenizer, transformer, text_encoder
        self.defaults = Defaults()
        self.grid = transformer.config.grid
        self.image_size = self.grid * tokenizer.config.downsampling
        if transformer.config.vocab_size != tokenizer.config.codebook_size:
            raise UserError(
                f"the transformer knows {transformer.config.vocab_size} codes, the tokenizer has "
                f"{tokenizer.config.codebook_size}: they were not trained together"
            )
        if text_encoder is not None and text_encoder.width != transformer.config.caption_dim:
            raise UserError(
                f"the transformer reads text features of width {transformer.config.caption_dim}, the text "
                f"encoder gives {text_encoder.width}; check --t5-path"
            )

    @classmethod
    def load(
        cls,
        vq_ckpt: str | Path,
        gpt_ckpt: str | Path,
        t5_path: str | Path | None = None,
        t5_model_type: str = DEFAULT_T5,
        *,
        vq_model: str | None = None,
        gpt_model: str | None = None,
        image_size: int | None = None,
        with_text_encoder: bool = True,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> EditingPipeline:
        """Loads checkpoints, ours or published.

        Args:
          vq_model, gpt_model, image_size: for published files, which do not hold them.
          with_text_encoder: False if every text will come as features.
          dtype: of the transformer's weights; on CPUs they are packed (`packed_linear`).
        """
        for name, value, known in (("vq_model", vq_model, VQ_MODELS), ("gpt_model", gpt_model, GPT_MODELS)):
            if value is not None and value not in known:  # also where the file itself says what it holds
                raise UserError(f"{name} {value!r} is not known; use one of {', '.join(known)}")
        tokenizer = load_vq_model(vq_ckpt, vq_model, device=device)
        transformer = load_transformer(
            gpt_ckpt, gpt_model=gpt_model, image_size=image_size, downsample=tokenizer.config.downsampling
        )
        max_tokens = transformer.config.cls_token_num
        text_encoder = None
        if with_text_encoder:
            text_encoder = T5Encoder(resolve_t5(t5_path, t5_model_type), device=device, max_tokens=max_tokens)
        transformer = transformer.to(device, dtype)
        pack_linears(transformer)
        return cls(tokenizer, transformer, text_encoder)

    @classmethod
    def from_pretrained(cls, name: str | Path, model: str | None = None, **options: Any) -> EditingPipeline:
        """Loads a folder that `save_pretrained` made, or one from the hub.

        Args:
          name: a folder, or a hub id such as "user/model".
          model: which of the folder's transformers; its first by default.
          options: `revision` (of a hub model); as in `load` `device`, `dtype`, `with_text_encoder`, and
            `t5_path` for a text encoder in the place of the folder's, or where that has none.
        Raises:
          UserError: no such folder or hub model, or one that is damaged.
        """
        return load_pretrained(cls, name, model, **options)

    def save_pretrained(
        self, folder: str | Path, model: str = "transformer", *, copy_text_encoder: bool | None = None
    ) -> None:
        """Writes all of it into a folder that `from_pretrained` reads; tokens drawn from it are the same.

        Args:
          folder: made if need be; a folder that holds other models of this tokenizer keeps them.
          model: the transformer's name there.
          copy_text_encoder: with its weights, or its name on the hub only. Default: weights, unless it came
            from the hub's cache, whence others can have it too. A pipeline without one leaves the folder's.
        Raises:
          UserError: other models of the folder use another tokenizer, or the hub's name is not known.
        """
        save_pretrained(self, Path(folder), model, copy_text_encoder=copy_text_encoder)

    def push_to_hub(
        self,
        repo_id: str,
        folder: str | Path,
        *,
        private: bool = False,
        token: str | None = None,
        **options: Any,
    ) -> str:
        """Saves to `folder` (`options` are those of `save_pretrained`), uploads it, returns where it is."""
        self.save_pretrained(folder, **options)
        message = "Upload the editing pipeline"
        return push_folder(Path(folder), repo_id, private=private, message=message, token=token)

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> EditingPipeline:
        """Moves all models to a device, and the transformer's weights to a type; returns the pipeline."""
        unpack_linears(self.transformer)
        self.transformer.to(device=device, dtype=dtype)
        pack_linears(self.transformer)
        if device is not None:
            self.tokenizer.to(device)
            if self.text_encoder is not None:
                self.text_encoder.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return self.transformer.device

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
        sampling: Sampling | None = None,
        mode: str | None = None,
        mask_rule: str | None = None,
        mask_error: int | None = None,
        random_order: bool = False,
        composite: str = "cells",
        auto_mask: AutoMaskSettings | None = None,
        source_codes: Tensor | None = None,
        progress: Progress | None = None,
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
          sampling: see `Sampling`; this and the next three default to what the model was saved with.
          mode: "marks", "no_marks" (editing models trained without the row of marks) or "zero_shot" (a
            text-to-image model that sees the kept cells). Default: by whether the model has marks.
          mask_rule: pixel mask to cells, "published" or "exact".
          mask_error: widens each mask by this many of its pixels first, or shrinks it (negative, never to
            nothing): for accuracy against mask error. An edit without a mask has none.
          random_order: draw the cells in random order instead of raster order.
          composite: which pixels come from the decoder: "cells" (the edited cells), "mask" (the masked
            pixels), "none" (all), "published" (wherever the upsampled token mask is not 0).
          auto_mask: how "auto" gets its cells; the calibrated defaults if None.
          source_codes: (B, N) codes of the images where they are known already; encoded anew if None.
          progress: told of each code as it is drawn, see `Progress`.
        Raises:
          UserError: a mask that is empty or not its image's size, counts that differ, an unknown choice, a
            string of which cleaning leaves nothing (for no text, give `text_encoder.encode([""])`).
        """
        images, prompts, masks = as_inputs(images, prompts, masks)
        require_told(prompts)
        seeds = as_seeds(seeds, len(images), num_samples, generator)
        _check_options(sampling, auto_mask, progress)
        mode = self.resolve_mode(mode)
        if composite not in COMPOSITES:
            raise UserError(f"composite {composite!r} is not known; use one of {', '.join(COMPOSITES)}")
        if source_codes is not None:
            vocab_size = self.transformer.config.vocab_size
            source_codes = as_codes(source_codes, len(images), self.grid**2, vocab_size)
        if not images:
            return []
        auto = torch.tensor([is_auto(mask) for mask in masks])
        given = [None if is_auto(mask) else mask for mask in masks]
        pixel_masks, edit_mask = self.read_masks(images, given, mask_rule, mask_error)
        timings: dict[str, float] = {}
        with timed(timings, "encode", self.device):
            source = self.encode(images) if source_codes is None else source_codes
            text, text_valid = self.encode_texts(prompts)
        if auto.any():
            with timed(timings, "locate", self.device):
                scores = self.locate(source.cpu()[auto], text[auto], text_valid[auto])
                edit_mask[auto] = (auto_mask or AutoMaskSettings()).region(scores, self.grid)
        with timed(timings, "generate", self.device):
            codes = self.edit_codes(
                source,
                edit_mask,
                text,
                text_valid,
                seeds,
                sampling or self.defaults.sampling,
                mode,
                random_order=random_order,
                progress=progress,
            )
        with timed(timings, "decode", self.device):
            decoded = self.decode(codes)
        results = []
        for i, image in enumerate(decoded):
            asked, source_image = i // num_samples, images[i // num_samples]
            cells, pixels = edit_mask[asked], pixel_masks[asked]
            region = changed_region(composite, cells, pixels, self.grid, source_image.size)
            edited = compose(source_image, image, region)
            results.append(EditResult(edited, codes[i].cpu(), cells, region, timings))
        return results

    def read_masks(
        self,
        images: Sequence[Image.Image | None],
        masks: Sequence[Mask | None],
        rule: str | None = None,
        error: int | None = None,
    ) -> tuple[list[Tensor | None], Tensor]:
        """Masks as (H, W) bool, None where there is none, and (B, N) cells, all where there is none.

        Args:
          images: needed where there is a mask.
          rule, error: `mask_rule` and `mask_error` of `edit`.
        """
        rule = self.defaults.mask_rule if rule is None else rule
        if rule not in RULES:  # also where no mask is given
            raise UserError(f"unknown mask rule {rule!r}; choose one of {', '.join(RULES)}")
        error = whole("mask_error", self.defaults.mask_error if error is None else error)
        pixel_masks, edit_masks = [], []
        for mask, image in zip(masks, images, strict=True):
            require_mask(mask)
            pixels = check_mask(mask, image)
            if pixels is not None:
                pixels = resize_mask(pixels[None], error)[0]
            cells = pixels if pixels is None else pool_edit_mask(pixels[None].float(), self.grid, rule)
            pixel_masks.append(pixels)
            edit_masks.append(full_mask(self.grid) if cells is None else cells)
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
        config = self.transformer.config
        if config.mask_in_context:
            raise UserError(
                "this model has edit/keep marks: it edits images and cannot draw from text alone; take a "
                "text-to-image model"
            )
        prompts = as_prompts(prompts)
        require_told(prompts)
        seeds = as_seeds(seeds, len(prompts), num_samples, generator)
        _check_options(sampling, None, progress)
        if not prompts:
            return []
        text, text_valid = self.encode_texts(prompts)
        raster = torch.arange(self.grid**2).expand(len(seeds), -1)
        orders = raster if orders is None else as_orders(orders, len(seeds), self.grid**2)
        if not config.any_order and not torch.equal(orders, raster):
            raise UserError(
                "this is a raster-order GPT model: leave out the orders, or take an any-order model (R-GPT)"
            )
        prompt = t2i_prompt(orders[::num_samples], text_valid)
        sampling = sampling or self.defaults.sampling
        blank = torch.zeros_like(raster)
        drawn = self.generate_codes(
            prompt, orders, text, seeds, sampling, on_code=_follow(progress, blank, orders, None)
        )
        return self.decode(blank.to(drawn.device).scatter(1, orders.to(drawn.device), drawn))

    def locate(self, source: Tensor, text: Tensor, text_valid: Tensor) -> Tensor:
        """Scores each cell for how much the text asks to change it; `AutoMaskSettings.region` decides.

        Args:
          source: (B, N) codes.
          text, text_valid: (B, T, C) and (B, T), left-padded.
        Returns:
          (B, N) float32 nats on the CPU, see `edit_scores`.
        Raises:
          UserError: the model has no marks, or its numbers are not finite.
        """
        scores = edit_scores(self.transformer, source, text, text_valid)
        self._require_finite(scores.isfinite())
        return scores

    def edit_codes(
        self,
        source: Tensor,
        edit_mask: Tensor,
        text: Tensor,
        text_valid: Tensor,
        seeds: Sequence[int],
        sampling: Sampling,
        mode: str | None = None,
        *,
        random_order: bool = False,
        progress: Progress | None = None,
    ) -> Tensor:
        """The token level of `edit`: (P, N) source codes → (B, N) codes, kept cells unchanged.

        Args:
          edit_mask: (P, N) bool, at least one True a row.
          text, text_valid: (P, T, C) and (P, T), left-padded.
          seeds: B of them, B / P for each source in turn.
        """
        mode = self.resolve_mode(mode)
        source, edit_mask = source.cpu(), edit_mask.cpu()
        num_samples = len(seeds) // len(source)
        masks = edit_mask.repeat_interleave(num_samples, 0)
        counts = masks.sum(1)
        orders = (
            random_orders(list(seeds), self.grid**2, masks) if random_order else raster_edit_order(masks)
        )[:, : int(counts.max())]
        first = orders[::num_samples]
        if mode == "zero_shot":
            prompt = infill_prompt(source, edit_mask, first, text_valid)
        else:
            vocab = self.transformer.config.vocab_size
            prompt = editing_prompt(source, edit_mask, first, text_valid, vocab, marks=mode == "marks")
        sources = source.repeat_interleave(num_samples, 0)
        on_code = _follow(progress, sources, orders, counts)
        codes = self.generate_codes(prompt, orders, text, seeds, sampling, counts.tolist(), on_code)
        return place(codes.cpu(), orders, counts, sources)

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
        if mode not in MODES:
            raise UserError(f"mode {mode!r} is not known; use one of {', '.join(MODES)}")
        if marked != (mode == "marks"):
            has = "has" if marked else "has no"
            raise UserError(f"mode {mode!r} does not fit this model, which {has} edit/keep marks")
        return mode

    def generate_codes(
        self,
        prompt: SequenceLayout,
        orders: Tensor,
        text: Tensor,
        seeds: Sequence[int],
        sampling: Sampling,
        counts: Sequence[int] | None = None,
        on_code: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Draws the codes of the cells in `orders`, on the model's device; see `generate`.

        Args:
          seeds: one a row of `orders`.
        Raises:
          UserError: the model's numbers are not finite.
        """
        weight = self.transformer.tok_embeddings.weight
        uniforms = seeded_uniforms(list(seeds), self.grid**2)
        with evaluating(self.transformer):
            codes = generate(
                self.transformer,
                prompt.to(weight.device),
                text.to(weight),
                orders.to(weight.device),
                uniforms.to(weight.device),
                sampling,
                counts=counts,
                on_code=on_code,
            )
        self._require_finite(codes != NOT_FINITE)
        return codes

    def _require_finite(self, finite: Tensor) -> None:
        if not finite.all():
            raise UserError(
                f"the model gives NaN or infinity in {self.transformer.dtype}: take --precision none "
                "(float32); if it does so there too, its weights or the text features are damaged"
            )

    @torch.inference_mode()
    def encode(
        self, images: Sequence[Picture], resampling: Image.Resampling = Image.Resampling.BILINEAR
    ) -> Tensor:
        """Images as in `edit` → (B, N) codes.

        Args:
          resampling: of pictures of another size than the model's, with antialiasing. Bilinear as stage 2 and
            the published MagicBrush sampler; the published Emu Edit sampler alone is bicubic.
        """
        side = (self.image_size, self.image_size)
        seen = (as_image(image) for image in images)
        tensors = [image_to_tensor(i if i.size == side else i.resize(side, resampling)) for i in seen]
        return self.tokenizer.encode_ids(torch.stack(tensors).to(self.device))

    def encode_texts(self, texts: Sequence[Text]) -> tuple[Tensor, Tensor]:
        """Strings or features → (B, T, C) and (B, T), left-padded, on the CPU."""
        features = encode_texts(self.text_encoder, as_prompts(texts))
        return stack_text_features(features, limit=self.transformer.config.cls_token_num)

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> list[Image.Image]:
        """(B, N) codes → RGB images of the model's size."""
        pixels = self.tokenizer.decode_ids(codes.to(self.device)).float()
        pixels = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return [Image.fromarray(p) for p in pixels.permute(0, 2, 3, 1).cpu().numpy()]


def _check_options(sampling: Any, auto_mask: Any, progress: Any) -> None:
    require_kind("sampling", sampling, Sampling, "a Sampling")
    require_kind("auto_mask", auto_mask, AutoMaskSettings, "AutoMaskSettings")
    require_kind("progress", progress, Callable, "a function")


def _follow(
    progress: Progress | None, codes: Tensor, orders: Tensor, counts: Tensor | None
) -> Callable[[int, Tensor], None] | None:
    """What `generate` is to call, so that `progress` sees the (B, N) codes fill up."""
    if progress is None:
        return None
    codes = codes.clone()
    numbers = torch.arange(orders.shape[1])
    counts = torch.full_like(orders[:, 0], len(numbers)) if counts is None else counts
    to_draw = torch.zeros_like(codes, dtype=torch.bool).scatter(1, orders, numbers < counts[:, None])
    drawn_cells = torch.zeros_like(to_draw)

    def on_code(number: int, drawn: Tensor) -> None:
        cells, busy = orders[:, number], counts > number
        codes[busy, cells[busy]] = drawn.cpu()[busy]
        drawn_cells[busy, cells[busy]] = True
        progress(Drawing(number + 1, len(numbers), codes, drawn_cells, to_draw))

    return on_code
