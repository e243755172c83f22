"""Images and words in, images out: what users import.

    pipeline = EditingPipeline.load(vq_ckpt="vq.pt", gpt_ckpt="nep.pt", t5_path="t5")
    result = pipeline.edit(image, "make the circle blue", mask)[0]
    result.image.save("edited.png")

Letters: B batch, N cells, T text slots, C caption width, S side of the model's images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autoregressive.decoding.engine import Engine
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
from autoregressive.editing.composite import as_image, changed_region, check_mask, compose
from autoregressive.editing.options import Defaults, EditOptions
from autoregressive.editing.pretrained import find_files, push_folder, save_pretrained
from autoregressive.editing.results import EditResult, Progress
from autoregressive.editing.token_editor import TokenEditor
from autoregressive.models.gpt import GPT_MODELS, Transformer
from autoregressive.models.weights import load_transformer
from dataset.edit_masks import full_mask, pool_edit_mask, resize_mask
from dataset.samples import Text
from dataset.transforms import image_to_tensor
from language.t5 import DEFAULT_T5, T5Encoder, encode_texts, resolve_t5
from language.text_features import stack_text_features
from runtime.errors import UserError
from runtime.timing import timed
from tokenizer.tokenizer_image.vq_model import VQ_MODELS, VQModel, load_vq_model

Picture = Image.Image | np.ndarray | Tensor | str | Path
Mask = Image.Image | np.ndarray | Tensor


class EditingPipeline:
    """Tokenizer, transformer and text encoder as one; edits, infills zero-shot and draws from text."""

    def __init__(
        self,
        tokenizer: VQModel,
        transformer: Transformer,
        text_encoder: T5Encoder | None,
        *,
        pack: bool = False,
    ) -> None:
        """
        Args:
          text_encoder: None if every text comes as features.
          pack: for a transformer that is not trained, see `Engine`.
        """
        self.tokenizer, self.transformer, self.text_encoder = tokenizer, transformer, text_encoder
        self.token_editor = TokenEditor(transformer, pack=pack)
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
        return cls(tokenizer, transformer.to(device, dtype), text_encoder, pack=True)

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
        files, defaults = find_files(name, model, **options)
        pipeline = cls.load(**files)
        pipeline.defaults = defaults
        return pipeline

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
        self.engine.move(device, dtype)
        if device is not None:
            self.tokenizer.to(device)
            if self.text_encoder is not None:
                self.text_encoder.to(device)
        return self

    @property
    def engine(self) -> Engine:
        """What decodes: `compile_steps` and `release` are its own."""
        return self.token_editor.engine

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
          options: fields of `EditOptions`: sampling, mode, mask_rule, mask_error, random_order, composite,
            auto_mask.
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
                edit_mask[auto] = how.auto_mask.region(scores, self.grid)
        with timed(timings, "generate", self.device):
            codes = self.token_editor.edit(
                source,
                edit_mask,
                text,
                text_valid,
                seeds,
                how.sampling,
                how.mode,
                random_order=how.random_order,
                progress=progress,
            )
        with timed(timings, "decode", self.device):
            decoded = self.decode(codes)
        results = []
        for i, image in enumerate(decoded):
            asked = i * len(images) // len(seeds)
            cells, pixels = edit_mask[asked], pixel_masks[asked]
            region = changed_region(how.composite, cells, pixels, self.grid, images[asked].size)
            edited = compose(images[asked], image, region)
            results.append(EditResult(edited, codes[i], cells, region, timings))
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
