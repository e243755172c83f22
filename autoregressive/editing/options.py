"""How an edit is made, whatever it is of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoregressive.decoding.sampling import Sampling
from autoregressive.editing.arguments import require_kind, whole
from autoregressive.editing.auto_mask_settings import AutoMaskSettings
from autoregressive.editing.choices import COMPOSITES, CROPS
from autoregressive.editing.model_folders import Defaults
from autoregressive.sequence.order_kinds import ORDER_KINDS, resolve_order
from dataset.choices import RULES
from runtime.errors import UserError


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
        if self.mask_rule not in (None, *RULES):
            raise UserError(f"mask rule {self.mask_rule!r} is not known; use one of {', '.join(RULES)}")
        if self.mask_error is not None:
            whole("mask_error", self.mask_error)
        if self.order not in ORDER_KINDS:
            raise UserError(f"order {self.order!r} is not known; use one of {', '.join(ORDER_KINDS)}")
        if self.random_order:
            object.__setattr__(self, "order", resolve_order(self.order, self.random_order))
        if self.composite not in COMPOSITES:
            raise UserError(f"composite {self.composite!r} is not known; use one of {', '.join(COMPOSITES)}")
        if self.crop not in CROPS:
            raise UserError(f"crop {self.crop!r} is not known; use one of {', '.join(CROPS)}")
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
