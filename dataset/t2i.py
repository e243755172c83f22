"""Stage 1 data: captioned images."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from dataset.batches import T2ISample, blank_text, load_text
from dataset.records.images import load_image
from dataset.records.jsonl import JsonlRecords
from dataset.records.records import T2IRecord
from dataset.transforms import stage1_transform
from runtime.errors import UserError

SHORT_CAPTION_PROBABILITY = 0.3


class T2IDataset(Dataset[T2ISample]):
    """Map-style and stateless: `dataset[index, seed]` depends on nothing else.

    A record that cannot be used gives a sample with a `problem`, never an exception.
    """

    def __init__(
        self,
        records: JsonlRecords,
        image_size: int,
        feature_width: int | None,
        *,
        features_only: bool = False,
        trim: bool = True,
    ) -> None:
        """
        Args:
          records: of `T2IRecord`s; errors raised on access become problems.
          image_size: side of the square images.
          feature_width: width of the caption features to read; None = use the caption strings.
          features_only: a record without features cannot be used.
          trim: cut white borders off.
        """
        self.records = records
        self.image_size = image_size
        self.feature_width = feature_width
        self.features_only = features_only
        self.trim = trim

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> T2ISample:
        index, seed = key
        try:
            return self._load(self.records[index], seed)
        except UserError as error:
            blank = torch.zeros(3, self.image_size, self.image_size)
            text = blank_text(self.feature_width)
            return T2ISample(blank, text, seed, self.records.origin(index), problem=str(error))

    def _load(self, record: T2IRecord, seed: int) -> T2ISample:
        rng = np.random.default_rng(seed)
        feature_path = record.text_feature_path
        if record.short_text_feature_path is not None and rng.random() < SHORT_CAPTION_PROBABILITY:
            feature_path = record.short_text_feature_path
        text = load_text(
            record.text, feature_path, self.feature_width, record.origin, features_only=self.features_only
        )
        image = load_image(record.image_path)
        try:
            pixels = stage1_transform(image, self.image_size, trim=self.trim)
        except UserError as error:
            raise UserError(f"{record.image_path}: {error}") from None
        return T2ISample(pixels, text, seed, record.origin)
