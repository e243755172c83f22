"""Flags that say which models a program uses, each declared once; see `shared`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.config import REQUIRED, legacy, option
from runtime.flags.choices import INT8, PRECISION_NAMES
from runtime.flags.ranges import COUNT, SIZE
from runtime.flags.unless_model import unless_model

# All of them


def model(more: str = "") -> Any:
    """`--model` of a program that takes the files one by one, too."""
    words = "shapes (comes with the project), another folder of models (in pretrained_models its name is "
    words += "enough), or a hub id: all that a program needs, "
    return option(None, help=f"{words}with how they are used{more}")


def model_name(what: str) -> Any:
    """`--model-name`, of a folder with several."""
    return option(None, help=f"which transformer of --model; default: {what}")


# The tokenizer


def vq_ckpt(default: Any = None, more: str = "") -> Any:
    """`--vq-ckpt` of a program that uses a tokenizer."""
    return option(default, help=f"tokenizer checkpoint{more}")


def vq_model(default: str | None = "VQ-16") -> Any:
    """`--vq-model` of a program that uses a tokenizer."""
    then = " (VQ-16 then)" if default is None else ""
    return option(default, help=f"tokenizer name, for files that do not hold it{then}")


def image_size(default: Any = 256, what: str = "the square images, pixels", *, of_model: bool = False) -> Any:
    """`--image-size`."""
    return unless_model(default, SIZE, f"side of {what}", of_model)


def codebook_size(what: str = "codes; must be the tokenizer's") -> Any:
    """`--codebook-size`."""
    return option(None, within=COUNT, help=what)


def codebook_embed_dim(what: str = "code width; must be the tokenizer's") -> Any:
    """`--codebook-embed-dim`."""
    return option(None, within=SIZE, help=what)


def downsample_size() -> Any:
    """`--downsample-size`."""
    return option(None, within=SIZE, help="pixels per cell side; must be the tokenizer's")


# The transformer


def gpt_ckpt(default: Any = REQUIRED, what: str = "transformer checkpoint") -> Any:
    """`--gpt-ckpt`."""
    return option(default, help=what)


def gpt_model(default: str | None, choices: Sequence[str] | None = None, *, of_model: bool = False) -> Any:
    """`--gpt-model`, of a fresh transformer, or by default None of files without the name."""
    if of_model:
        words = f"transformer size; default: the model's own, {default} for files"
        return option(None, help=words, choices=choices)
    words = "transformer name, for files that do not hold it" if default is None else "transformer size"
    return option(default, help=words, choices=choices)


def cls_token_num(default: int | None, what: str, *, of_model: bool = False) -> Any:
    """`--cls-token-num`, the model's text slots."""
    return unless_model(default, SIZE, what, of_model)


def precision(of: str, default: str = "none") -> Any:
    """`--precision`."""
    return option(default, help=f"type of {of}", choices=sorted(PRECISION_NAMES))


def decoding_precision(default: str = "none") -> Any:
    """`--precision` of a program that decodes."""
    words = "type of the transformer's weights; int8: of 8 bits, to decode faster"
    return option(default, help=words, choices=sorted([*PRECISION_NAMES, INT8]))


def gpt_type() -> Any:
    """`--gpt-type`, published."""
    return legacy("one transformer serves every kind of conditioning")


def num_classes() -> Any:
    """`--num-classes`, published."""
    return legacy("there is no class-conditional model")


def no_left_padding() -> Any:
    """`--no-left-padding`, published."""
    words = "text stands right before the image cells, as in every published checkpoint"
    return legacy(words, takes_value=False)


# The text encoder


def t5_path(more: str = "; else the hub cache") -> Any:
    """`--t5-path` of a program that encodes texts."""
    return option(None, help=f"folder of the text encoder, or of several{more}")


def t5_model_type(default: str | None, what: str = "text encoder in that folder or cache") -> Any:
    """`--t5-model-type`."""
    return option(default, help=what)


def t5_feature_max_len(what: str) -> Any:
    """`--t5-feature-max-len`, in tokens."""
    return option(None, within=SIZE, help=what)


def t5_feature_dim(what: str) -> Any:
    """`--t5-feature-dim`."""
    return option(None, within=SIZE, help=what)
