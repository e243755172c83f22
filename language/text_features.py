"""Caption features: the type the model consumes, its file format, and the project's only padding code.

A caption is a (T, C) matrix: one row per token of the text encoder, C its width (2048 for FLAN-T5-XL). On
disk it is the published layout, a .npy of float32 (1, n, C) that holds the n valid rows and no padding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from language.published import MAX_TOKENS
from runtime.errors import UserError
from runtime.files import require_regular, write_atomic

REMEDY = "make it again with language/extract_t5_feature.py (delete this file first)"


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """The features of one caption.

    Attributes:
      embeddings: (T, C) floating point; rows may be padding only where `valid` is False.
      valid: (T,) bool.
    """

    embeddings: Tensor
    valid: Tensor

    def __post_init__(self) -> None:
        assert self.embeddings.ndim == 2, f"embeddings must be (T, C), not {tuple(self.embeddings.shape)}"
        assert self.valid.shape == self.embeddings.shape[:1], "valid must have one entry per row"
        assert self.valid.dtype == torch.bool, f"valid must be bool, not {self.valid.dtype}"

    def rows(self, limit: int | None = None) -> Tensor:
        """Returns the valid rows, (n, C), in order; the first `limit` of them."""
        return self.embeddings[self.valid][:limit]


def stack_text_features(
    features: Sequence[TextFeatures], length: int | None = None, limit: int | None = None
) -> tuple[Tensor, Tensor]:
    """Stacks captions of different lengths into one batch, padded with zeros at the left.

    Left, because the last text slot predicts the first image cell: with the padding in front, that slot is
    the same one in every row of the batch.

    Args:
      features: at least one, all of one width C; padding they already hold is dropped first.
      length: text slots T of the result; None takes the largest number of valid rows.
      limit: a caption's rows beyond this many, the text slots that the model knows, are cut off.
    Returns:
      embeddings (B, T, C) in the type and on the device of the first caption; valid (B, T) bool.
    Raises:
      ValueError: if a caption has more valid rows than `length`, or the widths differ.
    """
    assert len(features) > 0, "no captions to stack"
    rows = [caption.rows(limit) for caption in features]
    widths = sorted({row.shape[1] for row in rows})
    if len(widths) > 1:
        raise ValueError(f"captions of different feature widths in one batch: {widths}")
    longest = max(len(row) for row in rows)
    length = longest if length is None else length
    if longest > length:
        raise ValueError(f"a caption has {longest} valid tokens, but there are only {length} text slots")
    embeddings = rows[0].new_zeros(len(rows), length, widths[0])
    valid = torch.zeros(len(rows), length, dtype=torch.bool, device=embeddings.device)
    for index, row in enumerate(rows):
        start = length - len(row)
        embeddings[index, start:] = row
        valid[index, start:] = True
    return embeddings, valid


def says_nothing(features: TextFeatures) -> bool:
    """Whether these are the features of an empty text: the one token </s>, which every word would add to.

    A row of zeros stands for a text that could not be read, not for an empty one.
    """
    rows = features.rows(2)
    return len(rows) == 1 and bool(rows.any())


def require_readable(features: TextFeatures, width: int, name: str) -> None:
    """Raises `UserError` for features that a model of that width cannot read; `name` names them there."""
    rows = features.rows()
    if rows.shape[1] != width:
        raise UserError(
            f"{name}: text features of width {rows.shape[1]}, but the model expects {width}; make them with "
            "the text encoder that it was trained with"
        )
    if not len(rows):
        raise UserError(
            f"{name}: text features without a row; for no text give those of an empty one, "
            'text_encoder.encode([""])'
        )


def load_text_features(path: str | Path, width: int, max_tokens: int = MAX_TOKENS) -> TextFeatures:
    """Reads one caption's features.

    A file with more than `max_tokens` rows is cut to its first `max_tokens` rows. (The encoder's own
    truncation keeps the end-of-sentence token; cutting a file afterwards loses it.) Only those rows are read,
    and only after the shape in the header was found to agree with the size of the file, so a lying header
    costs no memory.

    Args:
      path: .npy of a floating-point array (1, n, width) of valid rows.
      width: the feature width C the model expects.
      max_tokens: most rows to keep.
    Returns:
      embeddings (min(n, max_tokens), width) float32, all of them valid.
    Raises:
      UserError: naming the file and the fix, for anything else than such a file, NaN and infinity included.
    """
    path = Path(path)
    with _readable(path) as file:
        num_tokens, dtype = _read_header(file, path, width)
        num_kept = min(num_tokens, max_tokens)
        data = file.read(num_kept * width * dtype.itemsize)
    with np.errstate(over="ignore"):  # a float64 too large for float32 becomes infinite and is refused below
        array = np.frombuffer(data, dtype).astype(np.float32).reshape(num_kept, width)
    embeddings = torch.from_numpy(array)
    finite = torch.isfinite(embeddings).all(dim=1)
    if not finite.all():
        token = int(finite.logical_not().nonzero()[0])
        raise UserError(f"{path}: the features of token {token} hold NaN or infinity; {REMEDY}")
    return TextFeatures(embeddings, torch.ones(num_kept, dtype=torch.bool))


def count_stored_tokens(path: str | Path, width: int) -> int:
    """Number of tokens in a feature file, from its header and size; errors as `load_text_features`."""
    path = Path(path)
    with _readable(path) as file:
        return _read_header(file, path, width)[0]


def save_text_features(path: str | Path, features: TextFeatures) -> None:
    """Writes the valid rows in the published layout, float32 (1, n, C); the file is whole or absent."""
    rows = features.rows().detach().to("cpu", torch.float32)
    assert len(rows) > 0, f"{path}: a caption without tokens"

    def write(target: Path) -> None:
        with target.open("wb") as file:  # np.save would append .npy to a temporary name
            np.save(file, rows[None].numpy(), allow_pickle=False)

    write_atomic(Path(path), write)


@contextmanager
def _readable(path: Path) -> Iterator[BinaryIO]:
    require_regular(path, "a file of text features")
    try:
        with path.open("rb") as file:
            yield file
    except OSError as problem:
        raise UserError(
            f"{path}: cannot read these text features ({problem.strerror or problem}); "
            "make them with language/extract_t5_feature.py or correct the path"
        ) from problem


def _read_header(file: BinaryIO, path: Path, width: int) -> tuple[int, np.dtype]:
    """Checks everything that can be known without reading the data; leaves `file` at the first row."""
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):  # what every plain array is written as; its header is at most 64 KiB
            raise ValueError(f".npy version {version[0]}.{version[1]}, expected 1.0")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    except OSError:
        raise
    except Exception as problem:  # garbage makes NumPy's parser raise at least six unrelated types
        raise UserError(f"{path}: not a .npy file of text features ({problem}); {REMEDY}") from problem
    if len(shape) != 3 or shape[0] != 1 or shape[1] < 1:
        raise UserError(f"{path}: shape {shape}, expected (1, number of tokens, {width}); {REMEDY}")
    if shape[2] != width:
        raise UserError(
            f"{path}: text features of width {shape[2]}, but the model expects {width}; "
            "extract them with the text encoder the model was trained with, or set the model's caption width"
        )
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise UserError(f"{path}: values of type {dtype}, expected float32; {REMEDY}")
    if fortran_order:
        raise UserError(f"{path}: stored column by column; save it again from np.ascontiguousarray(array)")
    expected = file.tell() + shape[1] * width * dtype.itemsize
    size = os.fstat(file.fileno()).st_size
    if size != expected:
        raise UserError(f"{path}: {size} bytes, but shape {shape} of {dtype} takes {expected}; {REMEDY}")
    return shape[1], dtype
