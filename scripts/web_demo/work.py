"""What the demo does for a visitor; knows nothing of web pages."""

from __future__ import annotations

import math
import queue
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autoregressive.editing.edit_queue import EditQueue
from autoregressive.editing.pictures import enlarge, grey_cells, outline_cells
from autoregressive.editing.results import Drawing, EditResult, Progress
from autoregressive.editing.session import EditSession
from autoregressive.sequence.order_kinds import ORDER_KINDS
from autoregressive.sequence.orders import drawing_orders
from dataset.records.images import MAX_PIXELS, as_seen, load_native
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
MOST_KEPT = 4
"""Pictures of the largest size whose pixels a visitor's samples may have together."""
_PATIENCE_S = 1.0


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
class Desk:
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
    def open(cls, edits: EditQueue, image: str | Path | Image.Image, max_pixels: int) -> Desk:
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
        """Writes the image, pixel for pixel, to a PNG in a folder that lives as long as the desk.

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

    desk: Desk | None = None

    def open(self, desk: Desk) -> Desk:
        """Puts another picture on the page; an edit of the one before ends, and its result is dropped."""
        before, self.desk = self.desk, desk
        if before is not None:
            before.shared.cancel()
        return desk

    def at(self) -> Desk:
        """
        Raises:
          UserError: nothing is open.
        """
        if self.desk is None:
            raise UserError("load an image first")
        return self.desk

    def require(self, desk: Desk) -> None:
        """Raises `CancelledError` once another picture than that is open."""
        if self.desk is not desk:
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


def fit_within(image: Image.Image, side: int) -> Image.Image:
    """The image as viewers show it, reduced where one of its sides is longer."""
    image = as_seen(image)
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


def show_partly(drawing: Drawing) -> Image.Image:
    """The first result as far as it is drawn, where it is edited; what is to come is grey."""
    picture, boxes = as_seen(drawing.pictures()[0]), drawing.boxes
    if not boxes:
        return fit_page(picture)
    first = slice(None, None, len(drawing.codes) // len(boxes))  # of the samples of each part
    for box, cells in zip(boxes, (drawing.to_draw & ~drawing.drawn)[first], strict=True):
        picture.paste(grey_cells(picture.crop(box), cells, math.isqrt(len(cells))), box[:2])
    return fit_page(picture.crop(_around(boxes)))


def show_result(result: EditResult) -> Image.Image:
    """What the model has seen of the image, as the page shows it, with its edited cells outlined."""
    left, top, right, bottom = _around([crop.box for crop in result.crops])
    page = fit_page(as_seen(result.image).crop((left, top, right, bottom)))
    across, down = page.width / (right - left), page.height / (bottom - top)
    for crop in result.crops:
        edges = (crop.box[0] - left, crop.box[1] - top, crop.box[2] - left, crop.box[3] - top)
        box = tuple(round(edge * scale) for edge, scale in zip(edges, (across, down) * 2, strict=True))
        page.paste(outline_cells(page.crop(box), crop.edit_mask, math.isqrt(len(crop.edit_mask))), box[:2])
    return page


def share_to_draw(drawing: Drawing, size: tuple[int, int]) -> float:
    """Share of a picture of that (width, height) that is edited, 0 to 1."""
    first = slice(None, None, len(drawing.codes) // len(drawing.boxes))
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in drawing.boxes]
    shares = drawing.to_draw[first].float().mean(1).tolist()
    return sum(area * share for area, share in zip(areas, shares, strict=True)) / math.prod(size)


def _around(boxes: Sequence[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    """The smallest box that holds them all."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


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
        told.put(drawing.copy())

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
