"""Groups of samples for each prompt, as codes, as pictures and as what the model trains on.

Letters: P prompts, G samples of each, B = P · G rows, N cells, T text slots, C caption width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from autoregressive.decoding.engine import place
from autoregressive.decoding.sampling_settings import Sampling, derived_seed
from autoregressive.editing.auto_mask_settings import AutoMaskSettings
from autoregressive.editing.crop import changed_region, compose
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sequence.builders import editing_layout, editing_prompt, infill_layout, infill_prompt
from autoregressive.sequence.layout import Prompt, TrainingLayout
from autoregressive.sequence.orders import edit_orders
from autoregressive.train.inputs import to_codes
from autoregressive.train.rewards.prompts import RewardPrompt
from language.t5 import encode_texts
from language.text_features import stack_text_features
from runtime.tensor_fields import TensorFields

_DRAW = 7  # first word of the entropy beside a prompt's seed; see `autoregressive.train.inputs`


@dataclass(frozen=True)
class Rows(TensorFields):
    """Rows of whole images in codes: P prompts, or B samples of them; on the CPU."""

    source: Tensor
    """(B, N) codes before the edit; zeros where nothing is edited."""
    codes: Tensor
    """(B, N) as drawn, those of the source elsewhere."""
    edit_mask: Tensor
    """(B, N) bool."""
    orders: Tensor
    """(B, N) cells, the drawn ones first."""
    text: Tensor
    """(B, T, C) float32."""
    text_valid: Tensor
    """(B, T) bool."""

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, index: Tensor | slice) -> Rows:
        """The rows that `index` names."""
        return self.map_tensors(lambda tensor: tensor[index])


def join_rows(parts: Sequence[Rows]) -> Rows:
    """One after the other; all have as many text slots."""
    names = [field.name for field in fields(Rows)]
    return Rows(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


class Task(Protocol):
    """What stands in the sequence: all in which editing, infilling and drawing differ."""

    def prompt(self, rows: Rows) -> Prompt: ...

    def layout(self, rows: Rows) -> TrainingLayout: ...


@dataclass(frozen=True)
class Editing:
    """Stage 2: text · source · marks, if the model has them, · drawn codes."""

    vocab_size: int
    marks: bool

    def prompt(self, rows: Rows) -> Prompt:
        return editing_prompt(
            rows.source, rows.edit_mask, rows.orders, rows.text_valid, self.vocab_size, marks=self.marks
        )

    def layout(self, rows: Rows) -> TrainingLayout:
        return editing_layout(
            rows.source,
            rows.codes,
            rows.edit_mask,
            rows.text_valid,
            self.vocab_size,
            marks=self.marks,
            orders=rows.orders,
        )


@dataclass(frozen=True)
class Infilling:
    """Stage 1: text · kept codes · drawn codes; text to image where all cells are drawn."""

    def prompt(self, rows: Rows) -> Prompt:
        return infill_prompt(rows.source, rows.edit_mask, rows.orders, rows.text_valid)

    def layout(self, rows: Rows) -> TrainingLayout:
        return infill_layout(rows.codes, rows.edit_mask, rows.orders, rows.text_valid)


class Rollouts:
    """Draws with a model as it is, from the distribution that its training sees."""

    def __init__(
        self, pipeline: EditingPipeline, task: Task, temperature: float, orders: Sequence[str]
    ) -> None:
        """
        Args:
          temperature: above 0. There is neither guidance nor top-k nor top-p: the probabilities of the draws
            would not be those of the forward that is trained.
          orders: of `ORDER_KINDS`, in one of which each sample's cells are drawn.
        """
        self.pipeline, self.task, self._orders = pipeline, task, orders
        self.sampling = Sampling(cfg_scale=1.0, temperature=temperature, top_k=0, top_p=1.0)

    @torch.no_grad()
    def encode(self, prompts: Sequence[RewardPrompt]) -> Rows:
        """What the model sees of the prompts, nothing drawn yet."""
        pipeline = self.pipeline
        features = encode_texts(pipeline.text_encoder, [prompt.text for prompt in prompts])
        text, valid = stack_text_features(features, limit=pipeline.transformer.config.cls_token_num)
        masks = torch.stack([prompt.edit_mask for prompt in prompts])
        source = torch.zeros(masks.shape, dtype=torch.long)
        if prompts[0].source is not None:
            source = to_codes(pipeline.tokenizer, torch.stack([p.source for p in prompts])).cpu()
        if found := [i for i, prompt in enumerate(prompts) if prompt.finds_region]:
            scores = pipeline.token_editor.locate(source[found], text[found], valid[found])
            masks[found] = AutoMaskSettings().region(scores, pipeline.grid)
        return Rows(source, source, masks, torch.zeros_like(source), text.float(), valid)

    def draw(self, prompts: Rows, seeds: Sequence[int], group_size: int) -> Rows:
        """G samples of each of P prompts, side by side.

        Args:
          seeds: P of the prompts; they decide orders and draws, whatever the batch.
        """
        of_rows = [row_seed(seed, number) for seed in seeds for number in range(group_size)]
        rows = prompts.map_tensors(lambda tensor: tensor.repeat_interleave(group_size, 0))
        counts = rows.edit_mask.sum(1)
        orders = edit_orders(of_rows, rows.edit_mask, self._orders)
        first = replace(prompts, orders=orders[::group_size])
        drawn = self.pipeline.token_editor.generate(
            self.task.prompt(first),
            prompts.text,
            orders[:, : int(counts.max())],
            of_rows,
            self.sampling,
            counts=counts.tolist(),
        )
        self.pipeline.engine.release()  # training needs the memory
        # Cloned: what is made in inference mode cannot be trained on.
        codes = place(drawn.codes.cpu().clone(), orders[:, : int(counts.max())], counts, rows.source)
        return replace(rows, codes=codes, orders=orders)

    def pictures(self, rows: Rows, sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        """B images; of an edit, everything outside the drawn cells is the source's, bit for bit.

        Samples of one prompt are often alike, and decoding is most of a step: what is alike is decoded once.

        Args:
          sources: B images to edit, or None.
        """
        distinct, number = rows.codes.unique(dim=0, return_inverse=True)
        decoded = self.pipeline.decode(distinct)
        images = [decoded[i] for i in number]
        for i, (source, mask) in enumerate(zip(sources, rows.edit_mask, strict=True)):
            if source is not None:
                region = changed_region("cells", mask, None, self.pipeline.grid, source.size)
                images[i] = compose(source, images[i], region)
        return images


def row_seed(seed: int, number: int) -> int:
    """Of a prompt's sample of that number."""
    return derived_seed(_DRAW, seed, number)
