"""Stage 1 data as image codes on disk: what autoregressive/train/extract_codes_t2i.py writes.

Codes are `<folder>/<name>/<i>.npy`, (1, N) integers in raster order; the features of the caption are
`<t5-feat-path>/<name>/<i>.npy`, as language/extract_t5_feature.py writes them for the same jsonl files.
"""

from __future__ import annotations

import os
from array import array
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset.batches import T2ISample, blank_text
from dataset.prepare.extraction import SETTINGS_FILE, read_settings
from dataset.records.jsonl import is_inside, locate
from dataset.t2i import SHORT_CAPTION_PROBABILITY
from language.text_features import load_text_features
from runtime.errors import UserError
from runtime.files import require_regular, write_atomic
from runtime.logging import get_logger

log = get_logger(__name__)
REMEDY = "make it again with autoregressive/train/extract_codes_t2i.py (delete this file first)"
_TOKENIZER = "tokenizer"


def code_settings(tokenizer_fingerprint: str, image_size: int) -> dict[str, Any]:
    """What codes depend on besides the images, as their folder's `extraction.json` notes it."""
    return {_TOKENIZER: tokenizer_fingerprint, "image_size": image_size}


def save_codes(path: Path, codes: Tensor) -> None:
    """Writes (N,) codes as published, int64 (1, N); the file is whole or absent."""
    values = codes.to("cpu", torch.int64)[None].numpy()

    def write(target: Path) -> None:
        with target.open("wb") as file:  # np.save would append .npy to a temporary name
            np.save(file, values, allow_pickle=False)

    write_atomic(path, write)


def load_codes(path: Path, num_cells: int, codebook_size: int) -> Tensor:
    """Reads the codes of one image.

    Returns:
      (num_cells,) int32 in [0, codebook_size).
    Raises:
      UserError: naming the file and the fix, for anything else than such codes.
    """
    require_regular(path, "a file of codes")
    try:
        # Mapped, a header that promises more than the file holds is an error before memory is taken.
        codes = np.load(path, mmap_mode="r", allow_pickle=False)
        shape, kind = codes.shape, codes.dtype.kind
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of codes") from None
    except Exception as problem:  # NumPy's parser raises many unrelated types
        raise UserError(f"{path}: not a .npy file of codes ({problem}); {REMEDY}") from problem
    if kind not in "iu":
        raise UserError(f"{path}: values of type {codes.dtype}, expected integers; {REMEDY}")
    if shape != (1, num_cells):
        raise UserError(
            f"{path}: codes of shape {shape}, expected (1, {num_cells}); "
            "extract them at the --image-size and with the tokenizer of this run"
        )
    if codes.min() < 0 or codes.max() >= codebook_size:
        raise UserError(
            f"{path}: codes from {codes.min()} to {codes.max()}, the tokenizer has {codebook_size}"
        )
    return torch.from_numpy(np.array(codes[0], dtype=np.int32))


class CodesDataset(Dataset[T2ISample]):
    """Map-style and stateless, as `T2IDataset`, with codes (N,) int32 in the place of `image`."""

    def __init__(
        self,
        folder: str | Path,
        grid: int,
        codebook_size: int,
        feature_width: int,
        *,
        t5_feat_path: str | Path,
        short_t5_feat_path: str | Path | None = None,
        allow_outside_root: bool = False,
    ) -> None:
        """
        Args:
          folder: holds a folder of codes for each jsonl file.
          grid: cells along one side of the images.
          codebook_size: number of different codes.
          feature_width: of the captions' features.
          t5_feat_path: folder of the captions' features.
          short_t5_feat_path: those of shorter captions, drawn with probability 0.3.
          allow_outside_root: follow links that lead outside these folders.
        """
        self.folder = Path(folder)
        self.num_cells, self.codebook_size, self.feature_width = grid**2, codebook_size, feature_width
        self.t5_feat_path = Path(t5_feat_path)
        self.short_t5_feat_path = None if short_t5_feat_path is None else Path(short_t5_feat_path)
        self.allow_outside_root = allow_outside_root
        self._names, self._numbers = _find_codes(self.folder)
        self._ends = list(accumulate(map(len, self._numbers)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, key: tuple[int, int]) -> T2ISample:
        index, seed = key
        which, within = locate(self._ends, index)
        relative = Path(self._names[which], f"{self._numbers[which][within]}.npy")
        origin = str(self.folder / relative)
        features = self.t5_feat_path
        short = np.random.default_rng(seed).random() < SHORT_CAPTION_PROBABILITY
        if short and self.short_t5_feat_path is not None:
            features = self.short_t5_feat_path
        try:
            codes = load_codes(self._below(self.folder, relative), self.num_cells, self.codebook_size)
            text = load_text_features(self._below(features, relative), self.feature_width)
        except UserError as error:
            blank = torch.zeros(self.num_cells, dtype=torch.int32)
            return T2ISample(blank, blank_text(self.feature_width), seed, origin, problem=str(error))
        return T2ISample(codes, text, seed, origin)

    def _below(self, root: Path, relative: Path) -> Path:
        path = root / relative
        if not self.allow_outside_root and not is_inside(path, root):
            raise UserError(f"{path} links outside {root}; pass --allow-outside-root")
        return path

    def require_tokenizer(self, fingerprint: str, vq_ckpt: str | Path) -> None:
        """Refuses codes that another tokenizer made.

        Args:
          fingerprint: `weights_fingerprint` of the tokenizer in use.
          vq_ckpt: its file, for the message.
        Raises:
          UserError: names the folder. Codes of unknown origin only give a warning.
        """
        unknown = []
        for name in self._names:
            settings = read_settings(self.folder / name)
            if settings is None:
                unknown.append(name)
            elif settings.get(_TOKENIZER) != fingerprint:
                raise UserError(
                    f"{self.folder / name}: these codes were not made by the tokenizer {vq_ckpt} "
                    f"({SETTINGS_FILE} there); give theirs with --vq-ckpt, or extract them again"
                )
        if unknown:
            log.warning(
                "%s: %d of %d folders (%s, …) have no %s: make sure that %s made their codes",
                *(self.folder, len(unknown), len(self._names), unknown[0], SETTINGS_FILE, vq_ckpt),
            )


def _find_codes(folder: Path) -> tuple[list[str], list[array]]:
    """The folders with codes in them, sorted, and the numbers of the codes in each."""
    if not folder.is_dir():
        raise UserError(f"--data-path {folder}: no such folder of codes")
    names, numbers = [], []
    for name in sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()):
        files = (os.path.splitext(entry) for entry in os.listdir(folder / name))
        stems = [stem for stem, end in files if end == ".npy" and stem.isdecimal()]
        if odd := next((stem for stem in stems if str(int(stem)) != stem), None):
            raise UserError(f"{folder / name / odd}.npy: codes are named {int(odd)}.npy here; rename it")
        found = array("q", sorted(map(int, stems)))
        if found:
            names.append(name)
            numbers.append(found)
    if not names:
        raise UserError(f"--data-path {folder}: holds no codes <name>/<number>.npy")
    return names, numbers
