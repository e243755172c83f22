"""What the demo does for a visitor; knows nothing of web pages."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from autoregressive.editing.edit_queue import EditQueue
from autoregressive.editing.results import Drawing, EditResult, Progress
from autoregressive.editing.session import EditSession
from dataset.records.images import MAX_PIXELS, as_seen, load_native
from language.caption_cleaning import require_words
from runtime.errors import UserError
from runtime.pictures import save_picture
from scripts.web_demo.following import follow

MAX_WORDS = 300
MOST_KEPT = 4
"""Pictures of the largest size whose pixels a visitor's samples may have together."""


class SharedPipeline:
    """What an `EditSession` asks of a pipeline, with edits that wait in the queue of all visitors."""

    def __init__(self, edits: EditQueue) -> None:
        self.edits, self.encode = edits, edits.pipeline.encode
        self._running: dict[Future, Progress | None] = {}

    def edit(self, *inputs: Any, progress: Progress | None = None, **options: Any) -> list[EditResult]:
        """As `EditingPipeline.edit`; raises `CancelledError` if it is cancelled."""
        future = self.edits.submit(*inputs, progress=progress, **options)
        self._running[future] = progress
        try:
            return future.result()
        finally:
            del self._running[future]

    def cancel(self) -> None:
        """Ends the edits that wait or run."""
        for future in list(self._running):
            future.cancel()

    def cancel_one(self, progress: Progress) -> None:
        """Ends the edit that tells `progress`, if it waits or runs; others go on."""
        for future, told in list(self._running.items()):
            if told is progress:
                future.cancel()


@dataclass
class Workspace:
    """What one visitor works on.

    Attributes:
      reconstruction: what the tokenizer makes of the image at the start, at the model's size.
      samples: of the last turn; one of them, number `taken`, is the session's.
      max_pixels: of an upload; samples together may have `MOST_KEPT` times as many.
      told, warned: what the page says of it.
    """

    session: EditSession
    shared: SharedPipeline
    reconstruction: Image.Image
    prompt: str = ""
    samples: list[EditResult] = field(default_factory=list)
    taken: int = 0
    max_pixels: int = MAX_PIXELS
    told: str = ""
    warned: list[str] = field(default_factory=list)
    folder: tempfile.TemporaryDirectory | None = None

    @classmethod
    def open(cls, edits: EditQueue, image: str | Path | Image.Image, max_pixels: int) -> Workspace:
        """The picture as its file has it; the model sees the part that is edited, as with `nep edit`.

        Raises:
          UserError: a file that is no image, or one with more pixels.
        """
        if not isinstance(image, Image.Image):
            try:
                image = load_native(str(image), max_pixels)
            except UserError as error:  # which folder it lies in is not the visitor's business
                raise UserError(str(error).replace(str(image), Path(image).name)) from None
        shared = SharedPipeline(edits)
        side = edits.pipeline.image_size
        as_seen_whole = image.mode == "RGB" and image.size == (side, side)  # then codes are kept, too
        session = EditSession(shared, image, crop="none" if as_seen_whole else "auto")
        reconstruction = edits.pipeline.decode(session.codes[None])[0]
        return cls(session, shared, reconstruction, max_pixels=max_pixels)

    def psnr(self) -> float:
        """Decibels between the image at the start, as the model sees it, and its reconstruction."""
        seen = self.shared.edits.pipeline.fit(as_seen(self.session.images[0]))
        difference = np.asarray(seen, dtype=float) - np.asarray(self.reconstruction, dtype=float)
        return float(10 * np.log10(255**2 / max((difference**2).mean(), 1e-9)))

    def propose(
        self, words: str, mask: np.ndarray | str | None, **options: Any
    ) -> Generator[Drawing | None, None, list[EditResult]]:
        """Ways to edit the image, see `EditSession.propose`, while they are drawn, see `follow`.

        Raises:
          UserError: more of them than may be kept.
        """
        width, height = self.session.image.size
        number, most = options.get("num_samples", 1), max(1, MOST_KEPT * self.max_pixels // (width * height))
        if number > most:
            raise UserError(
                f"{number} samples of a picture of {width}x{height} are too many for this page: ask for "
                f"{most}"
            )
        told: list[Progress] = []

        def work(progress: Progress) -> list[EditResult]:
            told.append(progress)
            return self.session.propose(words, mask, **options, progress=progress)

        return follow(work, lambda: [self.shared.cancel_one(progress) for progress in told])

    def take_turn(self, prompt: str, before: Image.Image, samples: list[EditResult]) -> None:
        """Makes the first sample the next turn.

        Args:
          before: the image that was edited.
        Raises:
          UserError: by now it is another, as the visitor has undone a turn meanwhile.
        """
        if self.session.image is not before:
            raise UserError("the image has changed while the edit was drawn; ask for it again")
        self.session.accept(prompt, samples[0])
        self.prompt, self.samples, self.taken = prompt, samples, 0

    def choose(self, number: int) -> None:
        """Takes another sample for the last turn.

        Raises:
          UserError: there is none of this number.
        """
        if not 0 <= number < len(self.samples):
            raise UserError(f"there is no sample {number} of the last edit")
        self.session.undo()
        self.session.accept(self.prompt, self.samples[number])
        self.taken = number

    def undo(self) -> None:
        self.session.undo()
        self.samples = []

    def save(self, root: str) -> Path:
        """Writes the image, pixel for pixel, to a PNG in a folder that lives as long as the workspace.

        Args:
          root: where such folders are.
        """
        if self.folder is None:
            self.folder = tempfile.TemporaryDirectory(dir=root, ignore_cleanup_errors=True)
        path = Path(self.folder.name) / "edited.png"
        save_picture(self.session.image, path)
        return path


@dataclass
class Visit:
    """What one visitor has open: the same as long as the page is, whatever is opened on it."""

    workspace: Workspace | None = None

    def open(self, workspace: Workspace) -> Workspace:
        """Puts another picture on the page; an edit of the one before ends, and its result is dropped."""
        before, self.workspace = self.workspace, workspace
        if before is not None:
            before.shared.cancel()
        return workspace

    def at(self) -> Workspace:
        """
        Raises:
          UserError: nothing is open.
        """
        if self.workspace is None:
            raise UserError("load an image first")
        return self.workspace

    def require(self, workspace: Workspace) -> None:
        """Raises `CancelledError` once another picture than that is open."""
        if self.workspace is not workspace:
            raise CancelledError


def check_words(prompt: str | None) -> str:
    """
    Raises:
      UserError: nothing is said, or too much.
    """
    prompt = (prompt or "").strip()
    require_words(prompt)
    if len(prompt.split()) > MAX_WORDS:
        raise UserError(f"the text has {len(prompt.split())} words; {MAX_WORDS} are the most")
    return prompt
