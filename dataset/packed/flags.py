"""Which flags of a training do not go with packed data; it does without PyTorch and Arrow."""

from __future__ import annotations

from typing import Any

from runtime.errors import UserError

# What packing decides once and for all: flags that act on the pixels.
_PIXEL_FLAGS = {
    "data_path": "the packed folders are the data",
    "cache_codes": "packed data are codes already",
    "mask_dilation": "the shards hold the mask of each cell, widening it takes the pixels",
    "mask_jitter": "masks are jittered when the data is packed",
    "center_crop": "the crop was chosen when the data was packed",
    "random_flip": "flips are made when the data is packed: --views",
}


def require_no_pixel_flags(config: Any) -> None:
    """Refuses flags of a training that would act on pixels, which packed data does not have.

    Args:
      config: the training's flags; those it does not know are not looked for.
    """
    for name, reason in _PIXEL_FLAGS.items():
        if getattr(config, name, None):
            raise UserError(f"--{name.replace('_', '-')} does not go with --packed-data: {reason}")
