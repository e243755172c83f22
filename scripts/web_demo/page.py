"""The demo's page: what a visitor sees and clicks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
from PIL import Image

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.choices import AUTO
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.results import Drawing
from autoregressive.scaling.choices import METHODS, REWARDS
from autoregressive.scaling.rewards import build_reward
from autoregressive.scaling.search import SearchSettings, best_of_n, search
from autoregressive.scaling.tasks import Task, TaskBatch
from autoregressive.scaling.trace import strip_of
from dataset.shapes.edits import SETTINGS, random_scene
from dataset.shapes.scenes import render
from runtime.errors import UserError
from scripts.web_demo.work import (
    BRUSHES,
    BUSY,
    ORDERS,
    SIDES,
    Desk,
    cell_order,
    check_words,
    fit_page,
    follow,
    painted_mask,
    show_partly,
    show_result,
)

MOST_SAMPLES, MOST_ROUNDS, MOST_CANDIDATES = 8, 16, 8
REGION_COLOR = ("#e60078", 0.5)
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_KEEP_DESK_S = 1800  # of a visitor who does nothing
_MODEL = {"concurrency_limit": 1, "concurrency_id": "model"}  # one at a time, the others queue


@dataclass(frozen=True)
class Studio:
    """The models that a page is for.

    Attributes:
      editor: edits; a text-to-image model does it zero-shot.
      painter: draws from text; None hides its tabs.
      scenes: offer random scenes of the shapes set.
      max_pixels: of an upload.
    """

    editor: EditingPipeline
    painter: EditingPipeline | None
    scenes: bool
    max_pixels: int

    @property
    def finds_regions(self) -> bool:
        return self.editor.transformer.config.mask_in_context


def build_page(studio: Studio) -> gr.Blocks:
    """All tabs; uploads and results that gradio keeps for a moment are deleted after minutes."""
    with gr.Blocks(title="NEP: edit a region", analytics_enabled=False, delete_cache=(60, 600)) as page:
        gr.Markdown("# Paint a region, say what to do\nOutside the edited cells every pixel stays as it was.")
        with gr.Tabs() as tabs:
            with gr.Tab("Edit", id="edit"):
                editing = EditTab(studio)
            if studio.painter is not None:
                with gr.Tab("Draw", id="draw"):
                    drawn, send = _draw_tab(studio.painter)
                with gr.Tab("Spend more", id="spend"):
                    _scaling_tab(studio.painter)
                done = send.click(_says(editing.open_image), drawn, editing.outputs, **_MODEL)
                done.success(lambda: gr.Tabs(selected="edit"), None, tabs)
    return page


def _says(function: Callable) -> Callable:
    """The same, with the visitor's mistakes as messages on the page."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def many(*inputs: Any) -> Iterator[Any]:
            try:
                yield from function(*inputs)
            except UserError as error:
                raise gr.Error(str(error), print_exception=False) from None

        return many

    @functools.wraps(function)
    def one(*inputs: Any) -> Any:
        try:
            return function(*inputs)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return one


@dataclass(frozen=True)
class _Draws:
    """The fields for how codes are drawn."""

    fields: list[gr.components.Component]
    defaults: Sampling

    @classmethod
    def place(cls, defaults: Sampling) -> _Draws:
        with gr.Accordion("How it is drawn", open=False):
            seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            guidance = gr.Slider(1, 15, defaults.cfg_scale, step=0.1, label="Guidance (1: none)")
            temperature = gr.Slider(0.05, 2, defaults.temperature, step=0.05, label="Temperature")
            top_k = gr.Number(defaults.top_k, label="Top-k (0: all)", precision=0, minimum=0)
        return cls([seed, guidance, temperature, top_k], defaults)

    def read(self, seed: float, guidance: float, temperature: float, top_k: float) -> tuple[int, Sampling]:
        sampling = replace(
            self.defaults, cfg_scale=float(guidance), temperature=float(temperature), top_k=int(top_k or 0)
        )
        return int(seed or 0), sampling


class EditTab:
    """Where images are edited.

    Attributes:
      outputs: all that shows a desk; what the methods below return or yield goes there.
    """

    def __init__(self, studio: Studio) -> None:
        """Places everything and says what happens on clicks."""
        self.studio, self.pipeline, self.grid = studio, studio.editor, studio.editor.grid
        desk = gr.State(time_to_live=_KEEP_DESK_S)
        with gr.Row():
            with gr.Column():
                with gr.Row():
                    upload = gr.UploadButton("Load an image", file_types=["image"], elem_id="upload")
                    scene = gr.Button("A random scene", visible=studio.scenes, elem_id="scene")
                canvas = _canvas("Paint the region", [REGION_COLOR], elem_id="canvas")
                auto = gr.Checkbox(
                    label="Find the region from the words", visible=studio.finds_regions, elem_id="auto"
                )
            with gr.Column():
                view = gr.Image(
                    label="The edit, its cells outlined", format="png", elem_id="view", buttons=[]
                )
                story = gr.Markdown(elem_id="story")
        asks = "What to do" if studio.finds_regions else "What the result shows"
        with gr.Row(equal_height=True):
            prompt = gr.Textbox(label=asks, scale=4, elem_id="prompt", max_length=2000)
            edit = gr.Button("Edit", variant="primary", elem_id="edit")
            undo = gr.Button("Undo", elem_id="undo")
        self.draws = _Draws.place(self.pipeline.defaults.sampling)
        count = gr.Slider(1, MOST_SAMPLES, 1, step=1, label="Samples", elem_id="count")
        samples = _gallery("Samples: click one to take it, or download it", "samples")
        history = _gallery("So far", "history")
        self.outputs = [desk, canvas, view, story, samples, history]

        upload.upload(_says(self.open_image), upload, self.outputs, api_name="open", **_MODEL)
        scene.click(_says(self.random_scene), None, self.outputs, api_name="scene", **_MODEL)
        asked = [desk, canvas, prompt, auto, count, *self.draws.fields]
        _on_either(edit.click, prompt.submit, self.edit, asked, self.outputs, "edit")
        undo.click(_says(self.undo), desk, self.outputs, api_name="undo")
        samples.select(self.take, desk, self.outputs)

    def open_image(self, image: str | Image.Image | None) -> list[Any]:
        if image is None:
            raise UserError("there is no image yet")
        at = Desk.open(self.pipeline, image, self.studio.max_pixels)
        width, height = at.session.image.size
        return self._shown(at, f"{width} × {height} pixels, {self.grid} × {self.grid} cells")

    def random_scene(self) -> list[Any]:
        drawn = random_scene(np.random.default_rng(), SETTINGS["hard"], held_out=True)
        image = Image.fromarray(render(drawn, self.pipeline.image_size))
        at = Desk.open(self.pipeline, image, self.studio.max_pixels)
        return self._shown(at, f"The scene: {drawn.caption()}")

    def edit(
        self, at: Desk | None, painting: dict | None, words: str, find: bool, how_many: float, *how: float
    ) -> Iterator[list[Any]]:
        if at is None:
            raise UserError("load an image first")
        words = check_words(words)
        layers = (painting or {}).get("layers", [])
        mask = AUTO if find else painted_mask(layers, at.session.image.size)
        seed, sampling = self.draws.read(*how)
        options = {"seed": seed, "num_samples": int(how_many), "sampling": sampling}
        before = at.session.image

        def partly(drawing: Drawing) -> list[Any]:
            picture = show_partly(before, self.pipeline, drawing)
            cells = f"{drawing.step} of {drawing.num_steps} cells"
            return [gr.skip(), gr.skip(), picture, cells, gr.skip(), gr.skip()]

        work = follow(lambda progress: at.session.propose(words, mask, **options, progress=progress))
        samples = yield from _each(work, partly)
        at.take_turn(words, before, samples)
        result, seconds = samples[0], sum(samples[0].timings.values())
        outside = "" if bool(result.region.all()) else "; every pixel outside them is as it was"
        count = f"{int(result.edit_mask.sum())} of {self.grid**2}"
        yield self._shown(at, f"{count} cells edited in {seconds:.1f} s{outside}")

    def undo(self, at: Desk | None) -> list[Any]:
        if at is None:
            raise UserError("nothing to undo: load an image first")
        at.undo()
        return self._shown(at, "One edit taken back")

    def take(self, at: Desk, chosen: gr.SelectData) -> list[Any]:
        at.choose(chosen.index)
        return self._shown(at, f"Sample {chosen.index} taken")

    def _shown(self, at: Desk, told: str) -> list[Any]:
        """All outputs, for a desk whose image has changed."""
        turns = at.session.history
        words = ["start", *(turn.prompt for turn in turns)]
        last = show_result(at.session.image, turns[-1].result.edit_mask, self.grid) if turns else None
        samples = [(sample.image, f"sample {i}") for i, sample in enumerate(at.samples)]
        canvas = _blank(fit_page(at.session.image))
        return [at, canvas, last, told, samples, list(zip(at.session.images, words, strict=True))]


def _draw_tab(painter: EditingPipeline) -> tuple[gr.State, gr.Button]:
    drawn = gr.State(time_to_live=_KEEP_DESK_S)
    with gr.Row():
        with gr.Column():
            prompt = gr.Textbox(label="What the image shows", elem_id="draw_prompt", max_length=2000)
            order = gr.Radio(ORDERS, value="raster", label="Order of the cells", elem_id="order")
            canvas = _canvas("Cells in the first colour come first", list(BRUSHES), visible=False)
            draws = _Draws.place(painter.defaults.sampling)
            draw = gr.Button("Draw", variant="primary", elem_id="draw")
        with gr.Column():
            view = gr.Image(label="The image", format="png", elem_id="drawn", buttons=["download"])
            send = gr.Button("Edit this image", elem_id="send")

    def run(words: str, name: str, painting: dict | None, *how: float) -> Iterator[list[Any]]:
        words = check_words(words)
        seed, sampling = draws.read(*how)
        cells = cell_order(name, painter.grid, seed, (painting or {}).get("layers"))[None]
        options = {"seeds": [seed], "sampling": sampling, "orders": cells}
        work = follow(lambda progress: painter.draw([words], **options, progress=progress)[0])
        image = yield from _each(work, lambda drawing: [gr.skip(), show_partly(None, painter, drawing)])
        yield [image, fit_page(image)]

    white = Image.new("RGB", (SIDES[0], SIDES[0]), "white")
    order.change(lambda name: gr.update(visible=name == "painted", value=_blank(white)), order, canvas)
    asked = [prompt, order, canvas, *draws.fields]
    _on_either(draw.click, prompt.submit, run, asked, [drawn, view], "draw")
    return drawn, send


def _scaling_tab(painter: EditingPipeline) -> None:
    gr.Markdown("The worst cells are drawn again in several random orders; what the reward prefers stays.")
    with gr.Row():
        with gr.Column():
            prompt = gr.Textbox(label="What the image shows", elem_id="spend_prompt", max_length=2000)
            reward = gr.Dropdown(REWARDS, value="shapes", label="Reward")
            rounds = gr.Slider(1, MOST_ROUNDS, 6, step=1, label="Rounds")
            candidates = gr.Slider(1, MOST_CANDIDATES, 4, step=1, label="Candidates a round")
            draws = _Draws.place(replace(painter.defaults.sampling, temperature=1.5))
            start = gr.Button("Start", variant="primary", elem_id="spend")
        with gr.Column():
            strip = gr.Image(label="Accepted rounds", format="png", elem_id="strip", buttons=["download"])
            curve = gr.LinePlot(
                x="tokens", y="reward", color="method", title="Reward by tokens spent", elem_id="curve"
            )
            story = gr.Markdown(elem_id="spend_story")

    def run(words: str, name: str, num_rounds: float, num: float, *how: float) -> list[Any]:
        words = check_words(words)
        seed, sampling = draws.read(*how)
        settings = SearchSettings(rounds=int(num_rounds), candidates=int(num))
        with BUSY:
            judge = build_reward(name, painter)
            batch = TaskBatch(painter, [Task(words, seed=seed)], sampling)
            results = {
                METHODS["search"]: search(batch, judge, settings)[0],
                METHODS["best_of_n"]: best_of_n(batch, judge, settings)[0],
            }
        rows = [
            {"tokens": entry.tokens_spent, "reward": entry.reward, "method": method}
            for method, result in results.items()
            for entry in result.rounds
        ]
        ends = ", ".join(f"{method} {result.reward:.4g}" for method, result in results.items())
        first = next(iter(results.values()))
        story = f"Reward {first.rounds[0].reward:.4g} at the start; at the end: {ends}"
        return [strip_of(first, painter.grid), pd.DataFrame(rows), story]

    asked = [prompt, reward, rounds, candidates, *draws.fields]
    start.click(_says(run), asked, [strip, curve, story], **_MODEL)


def _each(
    work: Generator[Drawing, None, Any], show: Callable[[Drawing], list[Any]]
) -> Generator[list[Any], None, Any]:
    """What `show` makes of each drawing; returns what the work returns."""
    while True:
        try:
            drawing = next(work)
        except StopIteration as end:
            return end.value
        yield show(drawing)


def _on_either(
    click: Callable, submit: Callable, function: Callable, inputs: list, outputs: list, name: str
) -> None:
    """Runs a function that shows its progress itself, on a click or when a line is entered."""
    gr.on([click, submit], _says(function), inputs, outputs, api_name=name, show_progress="hidden", **_MODEL)


def _canvas(label: str, colors: list, **options: Any) -> gr.ImageEditor:
    brush = gr.Brush(default_size=40, colors=colors, default_color=colors[0], color_mode="fixed")
    return gr.ImageEditor(
        label=label,
        type="numpy",
        format="png",
        sources=(),
        transforms=(),
        layers=False,
        brush=brush,
        canvas_size=(SIDES[0], SIDES[0]),
        height=600,
        buttons=[],
        **options,
    )


def _blank(image: Image.Image) -> dict[str, Any]:
    """A canvas with this picture and no stroke."""
    return {"background": image, "layers": [], "composite": image}


def _gallery(label: str, elem_id: str) -> gr.Gallery:
    return gr.Gallery(
        label=label,
        type="pil",
        format="png",
        columns=8,
        height=200,
        object_fit="contain",
        interactive=False,
        buttons=["download"],
        elem_id=elem_id,
        elem_classes="row",
    )
