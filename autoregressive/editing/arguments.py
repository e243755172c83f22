"""What users hand to the pipeline, checked once and by name, before anything is computed."""

from __future__ import annotations

import dataclasses
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.auto_mask_settings import AutoMaskSettings
from autoregressive.editing.choices import AUTO, COMPOSITES, CROPS
from autoregressive.editing.model_folders import Defaults
from autoregressive.sequence.order_kinds import ORDER_KINDS, resolve_order
from autoregressive.sequence.orders import drawing_orders
from dataset.batches import Text
from dataset.choices import RULES
from dataset.edit_masks import resize_mask
from dataset.records.images import as_image, as_native_image
from dataset.records.masks import edit_region, load_edit_region, marked
from language.caption_cleaning import require_words
from language.text_features import TextFeatures
from runtime.errors import UserError, require_known


@dataclass(frozen=True)
class EditOptions:
    """What `EditingPipeline.edit` is told beside images, prompts, masks and seeds.

    The first four are what the model was saved with where they are None.

    Attributes:
      sampling: guidance and truncation of the draws.
      mask_rule: pixel mask to cells, "published" or "exact".
      mask_error: widens each mask by this many of its pixels first, or shrinks it (negative, never to
        nothing): for accuracy against mask error. An edit without a mask has none.
      mode: "marks", "no_marks" (editing models trained without the row of marks) or "zero_shot" (a
        text-to-image model that sees the kept cells). Default: by whether the model has marks.
      order: in which the edited cells are drawn, one of `ORDER_KINDS`.
      random_order: the earlier way to ask for the order "random".
      composite: which pixels come from the decoder: "cells" (the edited cells), "mask" (the masked pixels),
        "none" (all), "published" (wherever the upsampled token mask is not 0).
      auto_mask: how "auto" gets its cells; the calibrated defaults if None.
      crop: what the model sees. "none", the published way: the whole picture, squashed to a square, as 8-bit
        RGB. "region": a square around the region, no smaller than the model's own size; around each part of
        it where they are far from each other. "auto": the same, and the whole picture where these squares
        would hold most of it, or where there is no mask. With both the result keeps the picture's
        transparency and its 16-bit grey.
      crop_padding: pixels around the region that its square has at least, where the picture has them; half of
        the region's longer side if None.
    """

    sampling: Sampling | None = None
    mask_rule: str | None = None
    mask_error: int | None = None
    mode: str | None = None
    order: str = "raster"
    random_order: bool = False
    composite: str = "cells"
    auto_mask: AutoMaskSettings | None = None
    crop: str = "none"
    crop_padding: int | None = None

    def __post_init__(self) -> None:
        require_kind("sampling", self.sampling, Sampling, "a Sampling")
        require_kind("auto_mask", self.auto_mask, AutoMaskSettings, "AutoMaskSettings")
        if self.mask_rule is not None:
            require_known("mask rule", self.mask_rule, RULES)
        if self.mask_error is not None:
            whole("mask_error", self.mask_error)
        require_known("order", self.order, ORDER_KINDS)
        if self.random_order:
            object.__setattr__(self, "order", resolve_order(self.order, self.random_order))
        require_known("composite", self.composite, COMPOSITES)
        require_known("crop", self.crop, CROPS)
        if self.crop_padding is not None and whole("crop_padding", self.crop_padding) < 0:
            raise UserError(f"crop_padding is {self.crop_padding}; give 0 or more pixels")
        if self.crop_padding is not None and self.crop == "none":
            raise UserError(
                f"crop_padding {self.crop_padding} without a crop: give crop 'auto' or 'region' too"
            )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> EditOptions:
        """Of keyword arguments; an unknown one is refused by name."""
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(options.keys() - set(known)):
            raise UserError(f"an edit has no option {unknown[0]!r}; use one of {', '.join(known)}")
        return cls(**options)

    def over(self, defaults: Defaults) -> EditOptions:
        """With the model's defaults in the place of None."""
        return dataclasses.replace(
            self,
            sampling=self.sampling or defaults.sampling,
            mask_rule=self.mask_rule or defaults.mask_rule,
            mask_error=defaults.mask_error if self.mask_error is None else self.mask_error,
        )


def require_kind(name: str, value: object, kind: type, wanted: str) -> None:
    """Raises `UserError` unless `value` is None or a `kind`."""
    if value is not None and not isinstance(value, kind):
        raise UserError(f"{name} {value!r} is of type {type(value).__name__}: give {wanted}")


def whole(name: str, value: Any) -> int:
    """A whole number of any library, as an int."""
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name} {value!r} is of type {type(value).__name__}: give a whole number") from None


def is_one_picture(images: object) -> bool:
    """Whether it is one image, not several."""
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim in (2, 3)
    return isinstance(images, Image.Image | str | Path)


def as_inputs(
    images: Any, prompts: Any, masks: Any, *, native: bool = False
) -> tuple[list[Image.Image], list[Text], list[Any]]:
    """One or several images, with as many prompts and masks.

    Args:
      images, prompts, masks: as in `EditingPipeline.edit`.
      native: images keep transparency and 16-bit grey.
    Raises:
      UserError: counts that differ, one prompt or mask for a list of images, something of another type.
    """
    if is_one_picture(images):
        images, prompts, masks = [images], [prompts], [masks]
    else:
        images = _as_list("images", images)
        if isinstance(prompts, str | TextFeatures):
            raise UserError(
                f"one prompt for a list of {len(images)} images: give a list with one prompt an image"
            )
        prompts = _as_list("prompts", prompts)
        if masks is None or isinstance(masks, str) and masks == AUTO:
            masks = [masks] * len(images)
        elif isinstance(masks, str | Path | Image.Image) or getattr(masks, "ndim", 3) < 3:
            raise UserError(
                f"one mask for a list of {len(images)} images: give a list with one mask an image, None or "
                f"{AUTO!r}"
            )
        masks = _as_list("masks", masks)
    if not len(images) == len(prompts) == len(masks):
        raise UserError(
            f"{len(images)} images, {len(prompts)} prompts and {len(masks)} masks: give as many of each"
        )
    read = as_native_image if native else as_image
    return [read(image) for image in images], as_prompts(prompts), masks


def as_prompts(prompts: Any) -> list[Text]:
    """One or several prompts, as a list.

    Raises:
      UserError: one is neither a string nor features.
    """
    prompts = [prompts] if isinstance(prompts, str | TextFeatures) else _as_list("prompts", prompts)
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str | TextFeatures):
            raise UserError(
                f"prompt {number} is {prompt!r}, a {type(prompt).__name__}: give a string or TextFeatures"
            )
    return prompts


def as_call(
    prompt: Any, image: Any, mask_image: Any
) -> tuple[list[Text], list[Any] | None, list[Any] | str | None]:
    """What a call of the pipeline is told, as lists of one length.

    Args:
      prompt, image, mask_image: as in `EditingPipeline.__call__`.
    Returns:
      Prompts, images or None, and masks; see `EditingPipeline.edit`.
    Raises:
      UserError: lists of several lengths, a mask without an image.
    """
    prompts = as_prompts(prompt)
    if image is None:
        if mask_image is not None:
            raise UserError("mask_image without an image: give the image that it belongs to")
        return prompts, None, None
    images = [image] if is_one_picture(image) else _as_list("image", image)
    one = mask_image is None or isinstance(mask_image, str | Path) or is_one_picture(mask_image)
    masks = [_call_mask(mask) for mask in ([mask_image] if one else _as_list("mask_image", mask_image))]
    count = max(len(prompts), len(images))
    lists = {"prompts": prompts, "images": images, "masks": masks}
    for name, values in lists.items():
        if len(values) not in (1, count):
            raise UserError(f"{len(values)} {name} for {count} edits: give one for all, or as many")
        lists[name] = values * count if len(values) == 1 else values
    return lists["prompts"], lists["images"], lists["masks"]


def require_said_once(options: Mapping[str, Any], callback: Any, generator: Any) -> None:
    """Raises `UserError` for options of a call that say what an argument of its own says."""
    if "num_samples" in options:
        raise UserError("num_samples is num_images_per_prompt in a call: give that")
    if callback is not None and "progress" in options:
        raise UserError("progress and callback_on_step_end are both told of each pass: give one of them")
    if generator is not None and options.get("seeds") is not None:
        raise UserError("seeds and generator both say what is drawn: give one of them")


def _call_mask(mask: Any) -> Any:
    """A mask as `edit` takes it: a leading side of 1 is left out."""
    return mask[0] if getattr(mask, "ndim", 2) == 3 and len(mask) == 1 else mask


def as_call_seeds(seeds: Any, generator: Any, num_inputs: int, num_samples: Any) -> list[int]:
    """A seed for each result; see `EditingPipeline.__call__`.

    Args:
      seeds: as in `EditingPipeline.edit`; None leaves them to the generator.
      generator: None, one, or a list of one a result.
    """
    if seeds is not None:
        return as_seeds(seeds, num_inputs, num_samples, None)
    if isinstance(generator, list | tuple):
        if len(generator) != num_inputs * whole("num_images_per_prompt", num_samples):
            raise UserError(
                f"{len(generator)} generators for {num_samples} results of each of {num_inputs} prompts: "
                "give one a result"
            )
        return [as_seeds(0, 1, 1, one)[0] for one in generator]
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    return as_seeds(0, num_inputs, num_samples, generator)


def require_told(prompts: Sequence[Text]) -> None:
    """Raises `UserError` where cleaning leaves nothing of a string, so that the model would be told nothing.

    Features are taken as they are, those of an empty text too.
    """
    for number, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            require_words(prompt, f"prompt {number}")


def is_auto(mask: Any) -> bool:
    """Whether the mask is to be found from the prompt; any other string is a file's path."""
    return isinstance(mask, str) and mask == AUTO


@dataclass(frozen=True)
class OwnSizeMask:
    """A mask of another resolution than its image, as some of MagicBrush's are.

    Of the whole picture it marks the cells that it marks at its own resolution, as published; else, and in
    pixels, it counts at the image's, nearest neighbour.
    """

    region: Tensor
    """(H, W) bool."""

    def fitted(self, image: Image.Image) -> Tensor:
        """As a mask of the image's size; a speck that nearest neighbours miss marks the pixel it lies in."""
        picture = Image.fromarray(self.region.numpy())
        fitted = torch.from_numpy(np.array(picture.resize(image.size, Image.Resampling.NEAREST)))
        if fitted.any():
            return fitted
        return F.adaptive_max_pool2d(self.region[None].float(), (image.height, image.width))[0] > 0


def as_regions(masks: Sequence[Any], images: Sequence[Image.Image | None], mask_error: int) -> list[Any]:
    """Masks as (H, W) bool tensors; None stays None.

    Args:
      masks: as in `EditingPipeline.edit`, but for "auto"; or `OwnSizeMask`s.
      images: needed where there is a mask.
      mask_error: pixels by which each is widened.
    Raises:
      UserError: a mask of another kind, range or size.
    """
    regions = []
    for number, (mask, image) in enumerate(zip(masks, images, strict=True)):
        name = "the mask" if len(masks) == 1 else f"mask {number}"
        if isinstance(mask, OwnSizeMask):
            mask = mask.fitted(image)
        elif isinstance(mask, str | Path):
            if not os.path.exists(mask):
                raise UserError(
                    f"mask {mask}: no such file; give another, an array, an image, None or {AUTO!r}"
                )
            mask, name = load_edit_region(mask), str(mask)
        region = check_mask(mask, image, name)
        regions.append(None if region is None else resize_mask(region[None], mask_error)[0])
    return regions


def check_mask(mask: Any, image: Image.Image, name: str = "the mask") -> Tensor | None:
    """The mask as a (H, W) bool tensor; None stays None.

    Args:
      mask: see `edit_region`.
      name: names it in errors.
    Raises:
      UserError: as `edit_region`, and for another type or a mask that is not of the image's size.
    """
    if mask is None:
        return None
    if not isinstance(mask, Image.Image | np.ndarray | Tensor):
        raise UserError(
            f"mask of type {type(mask).__name__} is not known; give an array, an image, a file's path, None "
            f"or {AUTO!r}"
        )
    region = edit_region(mask, name)
    if region.shape != (image.height, image.width):
        raise UserError(
            f"{name} has the shape {tuple(region.shape)}, the image is {image.width}x{image.height}: "
            f"the mask must be ({image.height}, {image.width})"
        )
    return marked(region)


def as_seeds(seeds: Any, num_inputs: int, num_samples: Any, generator: Any) -> list[int]:
    """The seeds of all results.

    Args:
      seeds, num_samples, generator: as in `EditingPipeline.edit`.
    Raises:
      UserError: something of another type, a count that differs, a seed of more than 64 bits.
    """
    if whole("num_samples", num_samples) < 1:
        raise UserError(f"num_samples is {num_samples}; ask for 1 or more")
    count = num_inputs * num_samples
    require_kind("generator", generator, torch.Generator, "a torch.Generator; a number goes in as seeds")
    if generator is not None:
        return torch.randint(2**63 - 1, (count,), generator=generator, device=generator.device).tolist()
    if isinstance(seeds, Iterable) and not isinstance(seeds, str) and getattr(seeds, "ndim", 1) > 0:
        seeds = [as_seed("a seed", seed) for seed in seeds]
    else:
        first = whole("seeds", seeds)
        seeds = [as_seed("seeds", first + i) for i in range(count)]
    if len(seeds) != count:
        raise UserError(
            f"{len(seeds)} seeds for {num_samples} results of each of {num_inputs} inputs: one a result"
        )
    return seeds


def as_seed(name: str, value: Any) -> int:
    """One seed, as all that draws takes it: 64 bits, with a sign or without.

    Raises:
      UserError: no whole number, or one of more bits.
    """
    seed = whole(name, value)
    if not -(2**63) <= seed < 2**64:
        raise UserError(f"the seed {seed} has more than 64 bits: give a smaller one")
    return seed


def as_orders(orders: Any, seeds: list[int], num_cells: int) -> Tensor:
    """Cells in generation order.

    Args:
      orders: one of `ORDER_KINDS`, or (B, N) whole numbers, each row holding every cell once.
      seeds: B, of the order "random".
    Returns:
      (B, N) int64, on the CPU.
    Raises:
      UserError: an unknown kind, another shape or type, or a row that is no order of the cells.
    """
    if isinstance(orders, str):
        require_known("order", orders, ORDER_KINDS)
        return drawing_orders(orders, seeds, torch.ones(len(seeds), num_cells, dtype=torch.bool))
    orders = torch.from_numpy(orders) if isinstance(orders, np.ndarray) else orders
    orders = orders.cpu() if hasattr(orders, "cpu") else orders
    require_whole_numbers("orders", orders, (len(seeds), num_cells))
    orders = orders.long()
    wrong = (orders.sort(1).values != torch.arange(num_cells)).any(1).nonzero()
    if len(wrong):
        raise UserError(
            f"row {int(wrong[0])} of orders must hold each of the cells 0 to {num_cells - 1} once; it is "
            f"{orders[wrong[0, 0]].tolist()[:20]}"
        )
    return orders


def as_codes(codes: Any, num_images: int, num_cells: int, vocab_size: int) -> Tensor:
    """Codes that are known already.

    Args:
      codes: (B, N) whole numbers.
    Returns:
      (B, N) int64, where they were.
    Raises:
      UserError: another shape or type, or codes that the model does not know.
    """
    require_whole_numbers("source_codes", codes, (num_images, num_cells))
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < vocab_size:
        raise UserError(
            f"source_codes reach from {int(codes.min())} to {int(codes.max())}: the model knows the codes 0 "
            f"to {vocab_size - 1}"
        )
    return codes.long()


def require_whole_numbers(name: str, values: Any, shape: Sequence[int]) -> None:
    """Raises `UserError` unless `values` is a tensor of whole numbers of that shape."""
    if not isinstance(values, Tensor):
        raise UserError(f"{name} of type {type(values).__name__}: give a tensor")
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise UserError(f"{name} of {values.dtype}: give whole numbers, such as torch.int64")
    if tuple(values.shape) != tuple(shape):
        raise UserError(f"{name} of shape {tuple(values.shape)}: it must be {tuple(shape)}")


def _as_list(name: str, values: Any) -> list[Any]:
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | dict | Path):
        raise UserError(f"{name} of type {type(values).__name__}: give one, or a list of them")
    return list(values)
