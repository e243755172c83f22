"""Stage 2 data: pairs of images, the region that changes between them, and what to do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset.batches import EditSample, blank_text, load_text
from dataset.edit_masks import full_mask, jitter_mask, pool_edit_mask
from dataset.records.edit_records import EditRecord, ParquetEditRecords
from dataset.records.images import ImageSource, load_image
from dataset.records.jsonl import JsonlRecords
from dataset.records.masks import fit_region, load_edit_region, marked
from dataset.records.parquet import ParquetImage
from dataset.transforms import dilate, joint_transform
from runtime.errors import UserError

DILATION_PROBABILITY = 0.5
_DILATION, _JITTER = 1, 5  # first words of the entropy: the crop's random stream is another


class EditingDataset(Dataset[EditSample]):
    """Map-style and stateless: `dataset[index, seed]` depends on nothing else.

    A record that cannot be used gives a sample with a `problem`, never an exception. One without a mask
    trains full regeneration: every cell is edited.
    """

    def __init__(
        self,
        records: JsonlRecords | ParquetEditRecords,
        image_size: int,
        grid: int,
        feature_width: int | None,
        *,
        features_only: bool = False,
        mask_rule: str = "published",
        center_crop: bool = False,
        random_flip: bool = False,
        full_mask: bool = False,
        mask_dilation: int = 0,
        mask_jitter: int = 0,
    ) -> None:
        """
        Args:
          records: of `EditRecord`s; errors raised on access become problems.
          image_size: side of the square images.
          grid: token cells per side.
          feature_width: width of the text features to read; None = use the strings.
          features_only: a record without features cannot be used.
          mask_rule: see `pool_edit_mask`.
          center_crop: crop the middle instead of a random place.
          random_flip: mirror with probability 0.5.
          full_mask: edit every cell whatever the mask says (--enforce-fake-masking); masks are not read.
          mask_dilation: half of the regions are widened by a random 0 to this many pixels, so that the model
            learns from loose masks too.
          mask_jitter: every region is widened or shrunk and shifted by random amounts of up to this many
            pixels (`jitter_mask`), so that the model learns from inexact masks.
        Raises:
          UserError: `mask_jitter` is negative, or not below `image_size`.
        """
        if not 0 <= mask_jitter < image_size:
            raise UserError(
                f"--mask-jitter {mask_jitter}: must be 0 or more pixels and below the image's {image_size}"
            )
        self.records = records
        self.image_size = image_size
        self.grid = grid
        self.feature_width = feature_width
        self.features_only = features_only
        self.mask_rule = mask_rule
        self.center_crop = center_crop
        self.random_flip = random_flip
        self.full_mask = full_mask
        self.mask_dilation = mask_dilation
        self.mask_jitter = mask_jitter

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> EditSample:
        index, seed = key
        sample, region = self.load_unpooled(index, seed)
        return sample if sample.problem is not None else self.pool(sample, region)

    def load_unpooled(self, index: int, seed: int = 0) -> tuple[EditSample, Tensor | None]:
        """Reads a sample up to its pixel region.

        Returns:
          The sample with an `edit_mask` of all False, and its region (1, S, S) in [0, 1], None for no mask.
        """
        nothing = torch.zeros(self.grid**2, dtype=torch.bool)
        try:
            record = self.records[index]
            text = load_text(
                record.text,
                record.text_feature_path,
                self.feature_width,
                record.origin,
                features_only=self.features_only,
            )
            source, edited, region = self._load_images(record, seed)
            return EditSample(source, edited, nothing, text, seed, record.origin), region
        except UserError as error:
            blank = torch.zeros(3, self.image_size, self.image_size)
            text, origin = blank_text(self.feature_width), self.records.origin(index)
            return EditSample(blank, blank, nothing, text, seed, origin, problem=str(error)), None

    def pool(self, sample: EditSample, region: Tensor | None) -> EditSample:
        """The sample with its token mask: `region` widened and jittered as the dice say, then pooled."""
        if region is None:
            return replace(sample, edit_mask=full_mask(self.grid))
        rng = np.random.default_rng([_DILATION, sample.seed])
        if self.mask_dilation and rng.random() < DILATION_PROBABILITY:
            region = dilate(region, int(rng.integers(self.mask_dilation + 1)))
        if self.mask_jitter:
            region = jitter_mask(region, self.mask_jitter, np.random.default_rng([_JITTER, sample.seed]))
        try:
            return replace(sample, edit_mask=pool_edit_mask(region, self.grid, self.mask_rule))
        except UserError as error:
            blank = torch.zeros_like(sample.source)
            return replace(sample, source=blank, edited=blank, problem=f"{sample.origin}: {error}")

    def _load_images(self, record: EditRecord, seed: int) -> tuple[Tensor, Tensor, Tensor | None]:
        images = load_image(record.source_path), load_image(record.edited_path)
        region = None
        if record.mask_path is not None and not self.full_mask:
            region = _load_region(record.mask_path, images[0].size)
        try:
            return joint_transform(
                *images,
                region,
                self.image_size,
                np.random.default_rng(seed),
                center_crop=self.center_crop,
                random_flip=self.random_flip,
            )
        except UserError as error:
            raise UserError(f"{record.origin}: {error}") from None


def _load_region(mask: ImageSource, size: tuple[int, int]) -> Tensor | None:
    """(H, W) in [0, 1] of an image of `size` (width, height); None for no mask.

    Masks in UltraEdit's own files are read as `pair_files` reads them when it prepares a list: an empty cell
    or white all over is no mask, another size is brought to the image's.
    """
    if not isinstance(mask, ParquetImage):
        return load_edit_region(mask, size)
    if mask.is_null():
        return None
    region = fit_region(load_edit_region(mask), size, str(mask))
    return None if marked(region).all() else region
