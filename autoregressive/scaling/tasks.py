"""What is to be drawn or edited, and what a model can do for it: draw, draw some cells again, judge cells.

Letters: P tasks, B results (B / P of each task, side by side), N cells, K cells to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from autoregressive.decoding.engine import guesses_of, place
from autoregressive.decoding.sampling_settings import Sampling, derived_seed
from autoregressive.editing.arguments import EditOptions, as_regions, as_seed
from autoregressive.editing.crop import cells_of, changed_region, compose
from autoregressive.editing.models import Picture
from autoregressive.editing.pipeline import EditingPipeline, Mask
from autoregressive.scaling.likelihood import log_likelihood
from autoregressive.scaling.revision import revision_prompt
from autoregressive.sequence.builders import editing_layout, t2i_layout
from autoregressive.sequence.orders import random_orders
from dataset.records.images import as_image
from language.caption_cleaning import require_words
from runtime.errors import UserError


@dataclass(frozen=True)
class Task:
    """One image to draw, or (with `image`) one to edit.

    Attributes:
      prompt: what the model reads.
      caption: what the reward reads: what the result should show. The prompt by default, unless the model
        reads instructions.
      image, mask: to edit, as in `EditingPipeline.edit`; no mask regenerates all.
      seed: 0 or more; decides all draws, whatever the batch.
    """

    prompt: str
    caption: str | None = None
    image: Picture | None = None
    mask: Mask | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if as_seed("seed", self.seed) < 0:
            raise UserError(f"task {self.prompt!r} has the seed {self.seed}: give 0 or more")


class TaskBatch:
    """Tasks with their codes and texts, ready for the model."""

    def __init__(
        self,
        pipeline: EditingPipeline,
        tasks: Sequence[Task],
        sampling: Sampling | None = None,
        *,
        mode: str | None = None,
        mask_rule: str | None = None,
        mask_error: int | None = None,
    ) -> None:
        """
        Args:
          sampling, mode, mask_rule, mask_error: as in `EditingPipeline.edit`.
        Raises:
          UserError: a model that draws in raster order only, or is asked to draw but can only edit; a mask
            that is empty, not its image's size or without an image; a caption that is missing; a prompt
            of which cleaning leaves nothing.
        """
        self.pipeline = pipeline
        self.tasks = [
            task if task.image is None else replace(task, image=as_image(task.image)) for task in tasks
        ]
        how = EditOptions(sampling, mask_rule, mask_error).over(pipeline.defaults)
        self.sampling = how.sampling
        self.mode = pipeline.token_editor.resolve_mode(mode)
        if self.mode != "zero_shot" and any(task.image is None for task in self.tasks):
            raise UserError(
                "this model edits images and cannot draw from text alone: give every task an image"
            )
        for task in self.tasks:
            require_words(task.prompt, f"task {task.prompt!r}")
            if task.image is None and task.mask is not None:
                raise UserError(f"task {task.prompt!r} has a mask but no image to edit")
            if self.mode != "zero_shot" and task.caption is None:
                raise UserError(
                    f"task {task.prompt!r}: this model reads instructions, a reward what the result should "
                    "show; give the task a caption"
                )
        images, masks = [task.image for task in self.tasks], [task.mask for task in self.tasks]
        regions = as_regions(masks, images, how.mask_error)
        self.free = torch.stack([cells_of(region, pipeline.grid, how.mask_rule) for region in regions])
        """(P, N) bool: the cells that the model decides."""
        self.source = torch.zeros(self.free.shape, dtype=torch.long)
        """(P, N) codes of the images to edit; 0 where there is none."""
        edits = [i for i, image in enumerate(images) if image is not None]
        if edits:
            self.source[edits] = pipeline.encode([images[i] for i in edits]).cpu()
        self.text, self.text_valid = pipeline.encode_texts([task.prompt for task in self.tasks])

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def captions(self) -> list[str]:
        """P texts for the reward."""
        return [task.prompt if task.caption is None else task.caption for task in self.tasks]

    def rows(self, index: Sequence[int]) -> TaskBatch:
        """The tasks that `index` names, in its order."""
        index = list(index)
        part = object.__new__(TaskBatch)
        part.__dict__.update(self.__dict__)
        part.tasks = [self.tasks[i] for i in index]
        for name in ("free", "source", "text", "text_valid"):
            setattr(part, name, getattr(self, name)[index])
        return part

    def seeds(self, round_number: int, num_samples: int, first: int = 0) -> list[int]:
        """P · `num_samples` seeds for one round, from that of sample `first`, functions of the tasks' own."""
        return [
            derived_seed(task.seed, round_number, sample)
            for task in self.tasks
            for sample in range(first, first + num_samples)
        ]

    def draw(self, seeds: Sequence[int]) -> Tensor:
        """All free cells in raster order: (B, N) codes."""
        return self.pipeline.token_editor.edit(
            self.source, self.free, self.text, self.text_valid, seeds, self.sampling, mode=self.mode
        ).codes

    def draw_again(self, codes: Tensor, cells: Tensor, seeds: Sequence[int]) -> Tensor:
        """Drops the codes of `cells` and draws them given all others, each result in a random order.

        An editing model still reads the original image as its source; of the edit it reads what is kept.

        Args:
          codes: (P, N) codes of the images as they are.
          cells: (P, N) bool, some of the free ones, at least one a task.
          seeds: B, which decide orders and draws.
        Returns:
          (B, N) codes.
        """
        if self.mode == "zero_shot":
            return self.pipeline.token_editor.edit(
                *(codes, cells, self.text, self.text_valid, seeds, self.sampling),
                mode=self.mode,
                order="random",
            ).codes
        num_samples = len(seeds) // len(self)
        masks = cells.repeat_interleave(num_samples, 0)
        counts = masks.sum(1)
        orders = random_orders(list(seeds), masks.shape[1], masks)[:, : int(counts.max())]
        prompt = revision_prompt(
            self.source,
            codes,
            self.free,
            cells,
            orders[::num_samples],
            self.text_valid,
            vocab_size=self._vocab,
            marks=self._marked,
        )
        before = codes.repeat_interleave(num_samples, 0)
        drawn = self.pipeline.token_editor.generate(
            prompt,
            self.text,
            orders,
            seeds,
            self.sampling,
            counts=counts.tolist(),
            guesses=guesses_of(self.sampling, before, orders),
        )
        return place(drawn.codes.cpu(), orders, counts, before)

    def log_likelihood(self, codes: Tensor, seeds: Sequence[int]) -> Tensor:
        """The model's own log-likelihood of every free cell in (P, N) `codes`, in a random order a task.

        Args:
          seeds: P, which decide the orders.
        Returns:
          (P, N) float32; 0 for cells that are not free.
        """
        if self.mode == "zero_shot":
            # What an edit keeps is read first: the order ends with the free cells.
            orders = random_orders(list(seeds), codes.shape[1], ~self.free)
            layout = t2i_layout(codes, orders, self.text_valid)
            by_cell = log_likelihood(self.pipeline.transformer, layout, self.text, orders)
            return by_cell * self.free
        orders = random_orders(list(seeds), codes.shape[1], self.free)
        layout = editing_layout(
            self.source, codes, self.free, self.text_valid, self._vocab, marks=self._marked, orders=orders
        )
        return log_likelihood(self.pipeline.transformer, layout, self.text, orders)

    def render(self, codes: Tensor) -> list[Image.Image]:
        """(B, N) codes → B images; an edit has its image's size and, outside the free cells, its pixels."""
        num_samples = len(codes) // len(self)
        images = self.pipeline.decode(codes)
        for i, decoded in enumerate(images):
            source, free = self.tasks[i // num_samples].image, self.free[i // num_samples]
            if source is not None:
                region = changed_region("cells", free, None, self.pipeline.grid, source.size)
                images[i] = compose(source, decoded, region)
        return images

    @property
    def _vocab(self) -> int:
        return self.pipeline.transformer.config.vocab_size

    @property
    def _marked(self) -> bool:
        return self.mode == "marks"
