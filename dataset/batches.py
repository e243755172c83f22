"""What a dataset yields, and batches of it.

Letters: B batch, S side of an image in pixels, N cells of the token grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from language.text_features import TextFeatures, load_text_features
from runtime.errors import UserError
from runtime.tensor_fields import TensorFields

Text = str | TextFeatures


@dataclass(frozen=True)
class T2ISample:
    """One captioned image.

    Attributes:
      image: (3, S, S) float32 in [-1, 1]; from a cached dataset (N,) int32 codes.
      text: the caption, or its features.
      seed: drives every further random choice made for this sample (order, caption drop).
      origin: where it comes from, for messages ("train.jsonl line 7").
      problem: None, or why the sample cannot be used; `image` is zeros then.
    """

    image: Tensor
    text: Text
    seed: int
    origin: str
    problem: str | None = None


@dataclass(frozen=True)
class EditSample:
    """One edit: `source` becomes `edited` inside `edit_mask`; the other fields as in `T2ISample`.

    Attributes:
      source: (3, S, S) float32 in [-1, 1]; from a cached dataset (N,) int32 codes.
      edited: as `source`.
      edit_mask: (N,) bool, raster order, True = edit; all False when there is a problem.
    """

    source: Tensor
    edited: Tensor
    edit_mask: Tensor
    text: Text
    seed: int
    origin: str
    problem: str | None = None


@dataclass(frozen=True)
class _Batch(TensorFields):
    texts: list[Text]
    seeds: list[int]
    origins: list[str]
    problems: list[str | None]
    valid: Tensor


@dataclass(frozen=True)
class T2IBatch(_Batch):
    """Stacked `T2ISample`s: image (B, 3, S, S), valid (B,) bool (False where there is a problem), lists."""

    image: Tensor


@dataclass(frozen=True)
class EditBatch(_Batch):
    """Stacked `EditSample`s: source, edited (B, 3, S, S), edit_mask (B, N) bool, valid (B,) bool, lists."""

    source: Tensor
    edited: Tensor
    edit_mask: Tensor


def collate_samples(samples: Sequence[T2ISample] | Sequence[EditSample]) -> T2IBatch | EditBatch:
    """Stacks samples of one kind into a batch; texts stay a list, to be padded by `stack_text_features`."""
    shared = {
        "texts": [sample.text for sample in samples],
        "seeds": [sample.seed for sample in samples],
        "origins": [sample.origin for sample in samples],
        "problems": [sample.problem for sample in samples],
        "valid": torch.tensor([sample.problem is None for sample in samples]),
    }
    if isinstance(samples[0], T2ISample):
        return T2IBatch(image=torch.stack([sample.image for sample in samples]), **shared)
    stacked = {
        name: torch.stack([getattr(sample, name) for sample in samples])
        for name in ("source", "edited", "edit_mask")
    }
    return EditBatch(**stacked, **shared)


def load_text(
    text: str | None,
    feature_path: Path | None,
    feature_width: int | None,
    origin: str,
    *,
    features_only: bool = False,
) -> Text:
    """A record's text as the dataset hands it on.

    Args:
      text: the string.
      feature_path: .npy with its features.
      feature_width: read features where there are any, they must have this width; None = use the string.
      origin: names the record in errors.
      features_only: there is nothing to encode a string with.
    Returns:
      The features where there are any, else the string.
    """
    if feature_width is not None and feature_path is not None:
        return load_text_features(feature_path, feature_width)
    if features_only:
        raise UserError(f"{origin}: has no text features, and no text encoder is loaded: give --t5-path")
    if text is None:
        raise UserError(f"{origin}: has text features only, no text to encode")
    return text


def blank_text(feature_width: int | None) -> Text:
    """Stands for the text of a sample that cannot be used; of the kind that `load_text` gives."""
    if feature_width is None:
        return ""
    return TextFeatures(torch.zeros(1, feature_width), torch.ones(1, dtype=torch.bool))
