"""Flags that programs of several rooms have, each declared once.

device: str = shared.device()
bad_sample_budget: float = shared.bad_sample_budget(0.0, of="rows")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.config import option
from runtime.flags.choices import PRECISION_NAMES
from runtime.flags.ranges import COUNT_OR_NONE, SHARE, SIZE, WORKERS


def device(what: str = "", *, choices: Sequence[str] | None = None) -> Any:
    """`--device`; `what` says what runs there."""
    return option("auto", help=f"{what and f'{what}: '}auto, cpu or cuda", choices=choices)


def bad_sample_budget(default: float, of: str = "samples") -> Any:
    """`--bad-sample-budget`, of samples, images, rows …"""
    return option(default, within=SHARE, help=f"share of unusable {of}, 0 to 1, past which the run fails")


def allow_outside_root(of: str = "data lists name files outside their own folder") -> Any:
    """`--allow-outside-root`; `of` says who may lead where."""
    return option(False, help=f"let {of}")


def absolute_paths() -> Any:
    """`--absolute-paths`."""
    return option(False, help="the list is your own: absolute paths in it are taken as they are")


def num_workers(default: int, what: str) -> Any:
    """`--num-workers` where 0 means none."""
    return option(default, within=WORKERS, help=what)


def image_size(default: int = 256, what: str = "the square images") -> Any:
    """`--image-size`."""
    return option(default, within=SIZE, help=f"side of {what}, pixels")


def vq_ckpt(default: Any = None, more: str = "") -> Any:
    """`--vq-ckpt` of a program that uses a tokenizer."""
    return option(default, help=f"tokenizer checkpoint{more}")


def vq_model(default: str | None = "VQ-16") -> Any:
    """`--vq-model` of a program that uses a tokenizer."""
    then = " (VQ-16 then)" if default is None else ""
    return option(default, help=f"tokenizer name, for files that do not hold it{then}")


def text_field(choices: Sequence[str]) -> Any:
    """`--text-field` of a program that reads edits."""
    words = "what the model is told; default: the target caption, or the instruction if more of the data "
    words += "has that"
    return option(None, help=words, choices=list(choices))


def mask_rule(choices: Sequence[str]) -> Any:
    """`--mask-rule`."""
    return option("published", help="pixel mask to cells", choices=choices)


def crop(choices: Sequence[str]) -> Any:
    """`--crop` of a program that edits."""
    words = (
        "what the model sees: none, the whole picture as a square (published); region, squares around the "
    )
    words += "region at their own resolution; auto, these, or the whole where they would hold most of it"
    return option("none", help=words, choices=choices)


def crop_padding() -> Any:
    """`--crop-padding`."""
    words = "pixels around the region in its crop; default: half the region's longer side"
    return option(None, within=COUNT_OR_NONE, help=words)


def mask_jitter() -> Any:
    """`--mask-jitter`."""
    words = "widen or shrink, and shift, each mask by up to this many pixels"
    return option(0, within=COUNT_OR_NONE, help=words)


def t5_path(more: str = "; else the hub cache") -> Any:
    """`--t5-path` of a program that encodes texts."""
    return option(None, help=f"folder of the text encoder, or of several{more}")


def precision(of: str, default: str = "none") -> Any:
    """`--precision`."""
    return option(default, help=f"type of {of}", choices=sorted(PRECISION_NAMES))
