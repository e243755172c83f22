"""What the demo does for a visitor; knows nothing of web pages."""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autoregressive.editing.edit_queue import EditQueue
from autoregressive.editing.pictures import enlarge, grey_cells, outline_cells
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.results import Drawing, EditResult, Progress
from autoregressive.editing.session import EditSession
from autoregressive.sequence.order_kinds import ORDER_KINDS
from autoregressive.sequence.orders import drawing_orders
from dataset.edit_masks import cells_to_pixels
from dataset.records.images import load_image
from language.caption_cleaning import require_words
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.pictures import save_picture

log = get_logger("demo")
SIDES = (512, 1024)
"""Pictures on the page are enlarged to the one and reduced to the other."""
ORDERS = (*ORDER_KINDS, "painted")
BRUSHES = ("#d62728", "#ff7f0e", "#2ca02c", "#1f77b4", "#9467bd")
"""Cells painted in the first colour are drawn first; those that are not painted come last."""
MAX_WORDS = 300
AT_ONCE = 16
"""Visitors whose requests run at a time; they share the passes of the model."""
_PATIENCE_S = 1.0


class SharedPipeline:
    """What an `EditSession` asks of a pipeline, with edits that wait in the queue of all visitors."""

    def __init__(self, edits: EditQueue) -> None:
        self.edits, self.encode = edits, edits.pipeline.encode
        self._future: Future | None = None

    def edit(self, *inputs: Any, **options: Any) -> list[EditResult]:
        """As `EditingPipeline.edit`; raises `CancelledError` if it is cancelled."""
        self._future = self.edits.submit(*inputs, **options)
        return self._future.result()

    def cancel(self) -> None:
        """Ends the edit that waits or runs, if there is one."""
        if self._future is not None:
            self._future.cancel()


@dataclass
class Desk:
    """What one visitor works on.

    Attributes:
      reconstruction: what the tokenizer makes of the image at the start, at the model's size.
      samples: of the last turn; one of them, number `taken`, is the session's.
    """

    session: EditSession
    shared: SharedPipeline
    reconstruction: Image.Image
    prompt: str = ""
    samples: list[EditResult] = field(default_factory=list)
    taken: int = 0
    folder: tempfile.TemporaryDirectory | None = None

    @classmethod
    def open(cls, edits: EditQueue, image: str | Path | Image.Image, max_pixels: int) -> Desk:
        """
        Raises:
          UserError: a file that is no image, or one with more pixels.
        """
        if not isinstance(image, Image.Image):
            try:
                image = load_image(str(image), max_pixels)
            except UserError as error:  # which folder it lies in is not the visitor's business
                raise UserError(str(error).replace(str(image), Path(image).name)) from None
        shared = SharedPipeline(edits)
        session = EditSession(shared, image)
        return cls(session, shared, edits.pipeline.decode(session.codes[None])[0])

    def psnr(self) -> float:
        """Decibels between the image at the start, as the model sees it, and its reconstruction."""
        seen = self.shared.edits.pipeline.fit(self.session.images[0])
        difference = np.asarray(seen, dtype=float) - np.asarray(self.reconstruction, dtype=float)
        return float(10 * np.log10(255**2 / max((difference**2).mean(), 1e-9)))

    def propose(
        self, words: str, mask: np.ndarray | str | None, **options: Any
    ) -> Generator[Drawing | None, None, list[EditResult]]:
        """Ways to edit the image, see `EditSession.propose`, while they are drawn, see `follow`."""
        return follow(
            lambda progress: self.session.propose(words, mask, **options, progress=progress),
            self.shared.cancel,
        )

    def take_turn(self, prompt: str, before: Image.Image, samples: list[EditResult]) -> None:
        """Makes the first sample the next turn.

        Args:
          before: the image that was edited.
        Raises:
          UserError: by now it is another, as the visitor has undone a turn or opened an image meanwhile.
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
        """Writes the image, pixel for pixel, to a PNG in a folder that lives as long as the desk.

        Args:
          root: where such folders are.
        """
        if self.folder is None:
            self.folder = tempfile.TemporaryDirectory(dir=root, ignore_cleanup_errors=True)
        path = Path(self.folder.name) / "edited.png"
        save_picture(self.session.image, path)
        return path


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


def fit_within(image: Image.Image, side: int) -> Image.Image:
    """The image as RGB, reduced where one of its sides is longer."""
    image = image.convert("RGB")
    scale = side / max(image.size)
    if scale >= 1:
        return image
    return image.resize(tuple(max(1, round(s * scale)) for s in image.size), Image.Resampling.LANCZOS)


def fit_page(image: Image.Image) -> Image.Image:
    """Enlarged or reduced, so that one sees its cells."""
    least, most = SIDES
    longest = max(image.size)
    if longest <= most:
        return enlarge(image, min(least, min(image.size) * (most // longest)))
    return fit_within(image, most)


def painted_mask(layer: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of an image of that (W, H): pixels that a stroke has touched.

    Args:
      layer: RGBA, of any size.
    Raises:
      UserError: nothing is painted.
    """
    if layer is None or not layer[..., 3].any():
        raise UserError("paint the region to edit on the picture, or choose another way to say where")
    picture = Image.fromarray((layer[..., 3] > 0).astype(np.uint8) * 255)
    return np.asarray(picture.resize(size, Image.Resampling.BOX)) > 0


def cell_order(name: str, grid: int, seed: int, layer: np.ndarray | None = None) -> Tensor:
    """(N,) cells in one of `ORDERS`.

    Args:
      seed: of the random order.
      layer: RGBA, strokes in `BRUSHES`, for the painted order.
    """
    if name in ORDER_KINDS:
        return drawing_orders(name, [seed], torch.ones(1, grid**2, dtype=torch.bool))[0]
    palette = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in BRUSHES])
    turn = np.full(grid**2, len(BRUSHES))
    if layer is not None:
        cells = Image.fromarray(layer).resize((grid, grid), Image.Resampling.BOX)
        cells = np.asarray(cells, dtype=float).reshape(-1, 4)
        painted = cells[:, 3] > 25  # a tenth of a cell
        distance = np.abs(cells[:, None, :3] - palette).sum(2)
        turn[painted] = distance.argmin(1)[painted]
    return torch.from_numpy(np.argsort(turn, kind="stable"))


def show_partly(source: Image.Image | None, pipeline: EditingPipeline, drawing: Drawing) -> Image.Image:
    """The first result as far as it is drawn; what is to come is grey."""
    drawn = pipeline.decode(drawing.codes[:1])[0]
    size = drawn.size if source is None else source.size
    picture = drawn.resize(size, Image.Resampling.BICUBIC) if drawn.size != size else drawn
    still = drawing.to_draw[0] & ~drawing.drawn[0]
    picture = grey_cells(picture, still, pipeline.grid)
    if source is not None:
        region = cells_to_pixels(drawing.to_draw[0], pipeline.grid, source.height, source.width)
        picture = Image.composite(picture, source, Image.fromarray(region.numpy()))
    return fit_page(picture)


def show_result(image: Image.Image, cells: Tensor, grid: int) -> Image.Image:
    """The image as the page shows it, its edited cells outlined."""
    return outline_cells(fit_page(image), cells, grid)


class _LeftError(Exception):
    """Ends work that nobody waits for any more."""


def follow(
    work: Callable[[Progress], Any], cancel: Callable[[], None]
) -> Generator[Drawing | None, None, Any]:
    """Runs `work` in a thread, yields what it draws while it draws it, and returns its result.

    Closed before its end, as when a visitor leaves, it ends the work too.

    Args:
      work: gets a function to tell its progress to. Steps that come faster than they are taken are left out.
      cancel: ends the work where it waits for its turn; harmless once it is done.
    Yields:
      The drawing so far; None from time to time while there is none.
    """
    told: queue.Queue = queue.Queue()
    left = threading.Event()

    def note(drawing: Drawing) -> None:
        if left.is_set():
            raise _LeftError
        copies = (drawing.codes.clone(), drawing.drawn.clone(), drawing.to_draw)
        told.put(Drawing(drawing.step, drawing.num_steps, *copies))

    def run() -> None:
        try:
            told.put((work(note), None))
        except BaseException as error:
            told.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    begun = False
    try:
        while True:
            try:
                news = told.get(timeout=_PATIENCE_S)
            except queue.Empty:
                if not begun:
                    yield None
                continue
            while not told.empty() and isinstance(news, Drawing):
                news = told.get()
            if isinstance(news, Drawing):
                begun = True
                yield news
                continue
            result, error = news
            if error is not None:
                raise error
            return result
    except GeneratorExit:
        log.info("a visitor has left; what was drawn for them ends")
        raise
    finally:
        left.set()
        cancel()
