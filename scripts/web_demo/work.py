"""What the demo does for a visitor; knows nothing of web pages."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

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

SIDES = (512, 1024)
"""Pictures on the page are enlarged to the one and reduced to the other."""
ORDERS = (*ORDER_KINDS, "painted")
BRUSHES = ("#d62728", "#ff7f0e", "#2ca02c", "#1f77b4", "#9467bd")
"""Cells painted in the first colour are drawn first; those that are not painted come last."""
MAX_WORDS = 300


@dataclass
class Desk:
    """What one visitor works on."""

    session: EditSession
    prompt: str = ""
    samples: list[EditResult] = field(default_factory=list)
    """Of the last turn; one of them is the session's."""

    @classmethod
    def open(cls, pipeline: EditingPipeline, image: str | Path | Image.Image, max_pixels: int) -> Desk:
        """
        Raises:
          UserError: a file that is no image, or one with more pixels.
        """
        if not isinstance(image, Image.Image):
            try:
                image = load_image(str(image), max_pixels)
            except UserError as error:  # which folder it lies in is not the visitor's business
                raise UserError(str(error).replace(str(image), Path(image).name)) from None
        return cls(EditSession(pipeline, image))

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
        self.prompt, self.samples = prompt, samples

    def choose(self, number: int) -> None:
        """Takes another sample for the last turn."""
        self.session.undo()
        self.session.accept(self.prompt, self.samples[number])

    def undo(self) -> None:
        self.session.undo()
        self.samples = []


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


def fit_page(image: Image.Image) -> Image.Image:
    """Enlarged or reduced, so that one can paint on it."""
    least, most = SIDES
    longest = max(image.size)
    if longest <= most:
        return enlarge(image, min(least, min(image.size) * (most // longest)))
    scale = most / longest
    return image.resize(tuple(max(1, round(side * scale)) for side in image.size), Image.Resampling.LANCZOS)


def painted_mask(layers: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of an image of that (W, H): pixels that any stroke has touched.

    Args:
      layers: RGBA pictures of the page's size.
    Raises:
      UserError: nothing is painted.
    """
    touched = [layer[..., 3] > 0 for layer in layers if layer is not None]
    if not any(layer.any() for layer in touched):
        raise UserError(
            "paint the region to edit on the picture, or let the model find it with the box below the picture"
        )
    union = np.any(touched, axis=0)
    picture = Image.fromarray(union.astype(np.uint8) * 255)
    return np.asarray(picture.resize(size, Image.Resampling.BOX)) > 0


def cell_order(name: str, grid: int, seed: int, layers: list[np.ndarray] | None = None) -> Tensor:
    """(N,) cells in one of `ORDERS`.

    Args:
      seed: of the random order.
      layers: RGBA pictures with strokes in `BRUSHES`, for the painted order.
    """
    if name in ORDER_KINDS:
        return drawing_orders(name, [seed], torch.ones(1, grid**2, dtype=torch.bool))[0]
    palette = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in BRUSHES])
    turn = np.full(grid**2, len(BRUSHES))
    for layer in layers or []:
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


BUSY = threading.Lock()  # one model, one visitor at a time


def follow(work: Callable[[Progress], object]) -> Generator[Drawing, None, object]:
    """Runs `work` in a thread, yields what it draws while it draws it, and returns its result.

    Args:
      work: gets a function to tell its progress to. Steps that come faster than they are taken are left out.
    """
    told: queue.Queue = queue.Queue()

    def note(drawing: Drawing) -> None:
        copies = (drawing.codes.clone(), drawing.drawn.clone(), drawing.to_draw)
        told.put(Drawing(drawing.step, drawing.num_steps, *copies))

    def run() -> None:
        try:
            with BUSY:
                told.put((work(note), None))
        except BaseException as error:
            told.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    while True:
        news = told.get()
        while not told.empty() and isinstance(news, Drawing):
            news = told.get()
        if isinstance(news, Drawing):
            yield news
            continue
        result, error = news
        if error is not None:
            raise error
        return result
