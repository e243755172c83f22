"""What rewards are trained on: the lists of the two stages, of which the answers are not read.

Letters: N cells, S side of an image in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from autoregressive.scaling.reward import RewardCase
from dataset.batches import EditSample, Text
from dataset.edit_masks import full_mask, resize_mask
from dataset.t2i import T2IDataset
from dataset.t2i_editing import EditingDataset
from runtime.pictures import to_pixels

_REGION = 6  # first word of the entropy beside a sample's seed; see `autoregressive.train.inputs`


@dataclass(frozen=True)
class RewardPrompt:
    """One thing to draw or to edit.

    Attributes:
      text: what the model reads, as words or features.
      case: what rewards read.
      source: (3, S, S) float32 in [-1, 1], the image to edit; None where there is none.
      edit_mask: (N,) bool raster, the cells to draw.
      finds_region: the model is to find them itself.
      seed: drives every random choice made for this prompt.
      origin: where it comes from, for messages.
      problem: None, or why the prompt cannot be used.
    """

    text: Text
    case: RewardCase
    source: Tensor | None
    edit_mask: Tensor
    finds_region: bool
    seed: int
    origin: str
    problem: str | None = None


class EditPrompts(Dataset[RewardPrompt]):
    """Map-style and stateless, as the dataset of edits below it."""

    def __init__(self, dataset: EditingDataset, regions: list[str], mask_error: int) -> None:
        """
        Args:
          regions: of `choices.REGIONS`; each prompt's seed chooses one.
          mask_error: pixels by which the list's masks are widened.
        """
        self._dataset, self._regions, self._mask_error = dataset, regions, mask_error

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, key: tuple[int, int]) -> RewardPrompt:
        index, seed = key
        kind = self._regions[np.random.default_rng([_REGION, seed]).integers(len(self._regions))]
        sample, region = self._dataset.load_unpooled(index, seed)
        if sample.problem is not None:
            return self._prompt(sample, RewardCase(""), False)
        if region is not None and self._mask_error:
            region = resize_mask(region, self._mask_error)
        sample = self._dataset.pool(sample, None if kind == "all" else region)
        record = self._dataset.records[index]
        case = RewardCase(
            record.output_caption or record.instruction or "",
            record.instruction,
            record.input_caption,
            as_picture(sample.source),
        )
        if not case.caption and sample.problem is None:
            sample = replace(sample, problem=_wordless(sample.origin))
        return self._prompt(sample, case, kind == "found")

    def _prompt(self, sample: EditSample, case: RewardCase, finds_region: bool) -> RewardPrompt:
        how = sample.edit_mask, finds_region, sample.seed, sample.origin, sample.problem
        return RewardPrompt(sample.text, case, sample.source, *how)


class DrawPrompts(Dataset[RewardPrompt]):
    """Captions; map-style and stateless. Their images are read too, so that what cannot be used is told."""

    def __init__(self, dataset: T2IDataset, grid: int) -> None:
        self._dataset, self._grid = dataset, grid

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, key: tuple[int, int]) -> RewardPrompt:
        index, seed = key
        sample, caption = self._dataset[key], ""
        problem = sample.problem
        if problem is None:
            caption = self._dataset.records[index].text or ""
            problem = None if caption else _wordless(sample.origin)
        how = full_mask(self._grid), False, seed, sample.origin, problem
        return RewardPrompt(sample.text, RewardCase(caption), None, *how)


def _wordless(origin: str) -> str:
    return f"{origin}: has text features only; rewards read words"


def as_picture(image: Tensor) -> Image.Image:
    """(3, S, S) in [-1, 1] → RGB."""
    return Image.fromarray(to_pixels(image))


Prompts = EditPrompts | DrawPrompts
Keys = list[tuple[int, int]]


class PromptBatches(Dataset[list[RewardPrompt]]):
    """Prompts that a loader asks for in whole batches."""

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts

    def __getitem__(self, keys: Keys) -> list[RewardPrompt]:
        return [self._prompts[key] for key in keys]
