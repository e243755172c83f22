"""What the demo's page is made of and gradio lacks: a canvas, rows of pictures, notices; fields of a draw."""

from __future__ import annotations

import base64
import functools
import html
import inspect
import io
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from jinja2 import Environment, FileSystemLoader
from PIL import Image

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.arguments import as_seed
from autoregressive.editing.results import Drawing
from runtime.errors import UserError
from scripts.web_demo.pictures import SIDES, fit_within

FOLDER = Path(__file__).parent
CSS = (FOLDER / "page.css").read_text(encoding="utf-8")
PIECES = Environment(loader=FileSystemLoader(FOLDER), autoescape=True).get_template("pieces.html").module
"""The macros of pieces.html."""
KEEP_DESK_S = 1800  # of a visitor who does nothing
MODEL = {"concurrency_limit": 16, "concurrency_id": "model"}
"""So many visitors' requests run at a time; they share the passes of the model."""
_SMALL_SIDE = 256  # pictures up to here are shown pixel by pixel
_STRIP_SIDE = 192  # pixels of a picture in a row of pictures, at most
_LONGEST_LAYER = 8 << 20  # characters: many times what the canvas makes

Values = dict[gr.components.Component, Any]
"""Outputs of an event by component, at least one; others stay as they are."""


def canvas(colors: Sequence[str], about: str, **options: Any) -> gr.HTML:
    """A picture to paint on with a mouse, a finger, or arrow keys and space; tells of it by `input`."""
    template = (FOLDER / "canvas.html").read_text(encoding="utf-8")
    template = template.replace("COLORS", ",".join(colors)).replace("ABOUT", html.escape(about))
    return gr.HTML(
        html_template=template,
        js_on_load=(FOLDER / "canvas.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        **options,
    )


def canvas_value(image: Image.Image, grid: int, alt: str) -> dict[str, Any]:
    """A canvas with this picture and no stroke.

    Args:
      grid: cells per side, for those who paint with the keyboard.
      alt: what the picture is, for those who cannot see it.
    """
    shown = fit_within(image, SIDES[1])
    return {
        "picture": as_url(shown),
        "width": image.width,
        "height": image.height,
        "pixels": max(image.size) <= _SMALL_SIDE,
        "grid": grid,
        "alt": alt,
    }


def painted_layer(value: Any) -> np.ndarray | None:
    """(H, W, 4) uint8 strokes of a canvas, None where it has none.

    Raises:
      UserError: what came from the browser is no such layer.
    """
    url = value.get("layer") if isinstance(value, dict) else None
    if not url:
        return None
    try:
        head, _, data = url.partition(",")
        if head != "data:image/png;base64" or len(data) > _LONGEST_LAYER:
            raise ValueError
        picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=("PNG",))
        if max(picture.size) > SIDES[1]:
            raise ValueError
        return np.asarray(picture.convert("RGBA"))
    except Exception:  # Pillow's decoders raise almost anything on damaged files
        raise UserError("what is painted cannot be read: clear it and paint again") from None


def as_url(image: Image.Image) -> str:
    """A PNG as a data URL."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def strip(elem_id: str) -> gr.HTML:
    """A row of pictures; tells by `select` with an `index` which button of it was clicked."""
    return gr.HTML(
        elem_id=elem_id,
        apply_default_css=False,
        js_on_load="""element.addEventListener("click", (event) => {
          const button = event.target.closest("button[data-number]");
          if (button !== null) trigger("select", { index: Number(button.dataset.number) });
        });""",
    )


def strip_value(title: str, pictures: Sequence[tuple[Image.Image, str]], taken: int | None = None) -> str:
    """The pictures with all of their words, as HTML.

    Args:
      taken: number of the one that was chosen, where they can be chosen from.
    """
    shown = [(as_url(fit_within(image, _STRIP_SIDE)), words) for image, words in pictures]
    return str(PIECES.strip(title, shown, taken))


def notices(errors: Sequence[str] = (), warnings: Sequence[str] = ()) -> str:
    """What is wrong, and what to be aware of, as HTML."""
    return str(PIECES.notices(errors, warnings))


def says(function: Callable, notice: gr.HTML) -> Callable:
    """The same, with the visitor's mistake in `notice`, where it stays until something else is told there.

    Args:
      function: returns or yields `Values`.
    """
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def many(*inputs: Any) -> Iterator[Values]:
            try:
                yield from function(*inputs)
            except UserError as error:
                yield {notice: notices([str(error)])}

        return many

    @functools.wraps(function)
    def one(*inputs: Any) -> Values:
        try:
            return function(*inputs)
        except UserError as error:
            return {notice: notices([str(error)])}

    return one


@dataclass(frozen=True)
class SamplingFields:
    """The fields for how codes are drawn."""

    fields: list[gr.components.Component]
    defaults: Sampling

    @classmethod
    def place(cls, defaults: Sampling) -> SamplingFields:
        """Puts them on the page, to be placed inside of something that folds."""
        seed = gr.Number(0, label="Seed", precision=0, minimum=0)
        guidance = gr.Slider(1, 15, defaults.cfg_scale, step=0.1, label="Guidance (1: none)")
        temperature = gr.Slider(0.05, 2, defaults.temperature, step=0.05, label="Temperature")
        top_k = gr.Number(defaults.top_k, label="Top-k (0: all)", precision=0, minimum=0)
        return cls([seed, guidance, temperature, top_k], defaults)

    def read(self, seed: float, guidance: float, temperature: float, top_k: float) -> tuple[int, Sampling]:
        """The seed, and the sampling.

        Raises:
          UserError: a seed that no draw takes.
        """
        sampling = replace(
            self.defaults, cfg_scale=float(guidance), temperature=float(temperature), top_k=int(top_k or 0)
        )
        return as_seed("the seed", int(seed or 0)), sampling


def each(
    work: Generator[Drawing | None, None, Any], show: Callable[[Drawing | None], Values]
) -> Generator[Values, None, Any]:
    """What `show` makes of each drawing; returns what the work returns. Ends the work if it is left."""
    try:
        while True:
            yield show(next(work))
    except StopIteration as end:
        return end.value
    finally:
        work.close()


def on_either(
    click: Callable, submit: Callable, function: Callable, inputs: list, outputs: list, name: str
) -> None:
    """Runs a function that shows its progress itself, on a click or when a line is entered."""
    gr.on([click, submit], function, inputs, outputs, api_name=name, show_progress="hidden", **MODEL)
