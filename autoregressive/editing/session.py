"""Several edits of one image, one after the other, without drift.

session = EditSession(pipeline, image)
session.edit("make the circle blue", mask)
session.edit("remove the square", "auto")
session.undo()
session.image.save("edited.png")
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from autoregressive.editing.arguments import EditOptions
from autoregressive.editing.models import Picture
from autoregressive.editing.pipeline import EditingPipeline, Mask
from autoregressive.editing.results import EditResult
from dataset.batches import Text
from dataset.records.images import as_image, as_native_image
from runtime.errors import UserError

OPTIONS = ("sampling", "mode", "mask_rule", "order", "random_order", "auto_mask", "mask_error", "progress")
"""Those of `EditingPipeline.edit` that a turn takes too."""


@dataclass(frozen=True)
class EditTurn:
    """One edit of a session: what was asked for and what came of it."""

    prompt: Text
    result: EditResult


class EditSession:
    """An image with its codes, edited turn by turn.

    The image is encoded once, or each turn the crops that it edits. Each turn changes the codes and the
    pixels of its own cells and no other: all others stay bit for bit what they were, however many turns
    follow.

    Attributes:
      history: the turns so far, oldest first.
    """

    def __init__(
        self,
        pipeline: EditingPipeline,
        image: Picture,
        *,
        crop: str = "none",
        crop_padding: int | None = None,
    ) -> None:
        """
        Args:
          image: as in `EditingPipeline.edit`.
          crop, crop_padding: what the model sees in each turn, see `EditOptions`.
        """
        self.pipeline = pipeline
        self._how = EditOptions(crop=crop, crop_padding=crop_padding)
        self._whole = crop == "none"
        self.history: list[EditTurn] = []
        self._proposed: dict[int, tuple[weakref.ref, Image.Image]] = {}  # with the image it would edit
        self._first_image = as_image(image) if self._whole else as_native_image(image)
        self._first_codes = pipeline.encode([self._first_image])[0].cpu() if self._whole else None

    @property
    def image(self) -> Image.Image:
        """The image after the last turn."""
        return self.images[-1]

    @property
    def images(self) -> list[Image.Image]:
        """The image at the start and after each turn."""
        return [self._first_image, *(turn.result.image for turn in self.history)]

    @property
    def codes(self) -> Tensor:
        """(N,) int64 raster codes after the last turn; of the whole image, encoded anew, if it is cropped."""
        if not self._whole:
            return self.pipeline.encode([self.image])[0].cpu()
        return self.history[-1].result.codes if self.history else self._first_codes

    def edit(self, prompt: Text, mask: Mask | None = None, *, seed: int = 0, **options: Any) -> EditResult:
        """Edits the current image, which becomes the result.

        Args:
          prompt: what to do (editing models) or what the result shows (zero-shot).
          mask: as in `EditingPipeline.edit`: above half of its range = edit, "auto", or None for everything.
          seed: the same seed gives the same result.
          options: `OPTIONS`, as in `EditingPipeline.edit`.
        Raises:
          UserError: as `EditingPipeline.edit`, and for other options; the session stays as it was.
        """
        result = self.propose(prompt, mask, seed=seed, **options)[0]
        self.accept(prompt, result)
        return result

    def propose(
        self,
        prompt: Text,
        mask: Mask | None = None,
        *,
        seed: int = 0,
        num_samples: int = 1,
        **options: Any,
    ) -> list[EditResult]:
        """Ways to edit the current image, which stays as it is until one is accepted.

        Args:
          num_samples: how many.
          prompt, mask, seed, options: as in `edit`.
        """
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise UserError(f"a session has no option {unknown[0]!r}; use one of {', '.join(OPTIONS)}")
        image = self.image
        results = self.pipeline.edit(
            image,
            prompt,
            mask,
            seeds=seed,
            num_samples=num_samples,
            source_codes=self.codes[None] if self._whole else None,
            composite="cells",
            crop=self._how.crop,
            crop_padding=self._how.crop_padding,
            **options,
        )
        self._proposed = {key: known for key, known in self._proposed.items() if known[0]() is not None}
        self._proposed |= {id(result): (weakref.ref(result), image) for result in results}
        return results

    def accept(self, prompt: Text, result: EditResult) -> None:
        """Makes a proposal for the current image its next turn.

        Raises:
          UserError: it was made for another image, whose later turns it would revert, or not by this session.
        """
        reference, image = self._proposed.get(id(result), (lambda: None, None))
        if reference() is not result:
            raise UserError("this result is no proposal of this session: make it with the session's propose")
        if image is not self.image:
            raise UserError(
                "the session's image has changed since this was proposed, and taking it would revert that: "
                "undo back to that image, or propose again"
            )
        self.history.append(EditTurn(prompt, result))

    def undo(self) -> EditTurn:
        """Takes the last turn back and returns it; image and codes are what they were before it.

        Raises:
          UserError: there is no turn.
        """
        if not self.history:
            raise UserError("nothing to undo: the session has no edit yet")
        return self.history.pop()

    def branch(self) -> EditSession:
        """A session with the same turns so far; what comes next changes neither the other."""
        other = copy.copy(self)
        other.history, other._proposed = list(self.history), {}
        return other
