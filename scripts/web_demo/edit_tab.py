"""The tab of the demo's page on which images are edited."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from autoregressive.editing.choices import AUTO
from autoregressive.editing.edit_queue import EditQueue
from autoregressive.editing.results import Drawing
from runtime.errors import UserError
from scripts.web_demo.advice import is_far, on_picture, on_reconstruction, on_region, on_words
from scripts.web_demo.examples import ExampleEdit, Examples, OwnExamples
from scripts.web_demo.pictures import fit_page, painted_mask, share_to_draw, show_partly, show_result
from scripts.web_demo.widgets import (
    KEEP_DESK_S,
    MODEL,
    SamplingFields,
    Values,
    canvas,
    canvas_value,
    each,
    notices,
    on_either,
    painted_layer,
    says,
    strip,
    strip_value,
)
from scripts.web_demo.workspace import Visit, Workspace, check_words

MOST_SAMPLES = 8
REGION_COLOR = "#e60078"
FIND, PAINT, WHOLE = "Find the region from the words", "Where I paint", "The whole image"
_SAVE = "() => setTimeout(() => document.querySelector('#file')?.click(), 300)"


@dataclass(frozen=True)
class Studio:
    """The models that a page is for.

    Attributes:
      name: of their folder, or of their file.
      editor: edits; a text-to-image model does it zero-shot.
      painter: draws from text; None hides its tabs.
      examples: what to try; without them, the model is shown with what visitors load.
      max_pixels: of an upload.
    """

    name: str
    editor: EditQueue
    painter: EditQueue | None
    examples: Examples | OwnExamples | None
    max_pixels: int

    @property
    def of_shapes(self) -> bool:
        """Whether scenes of shapes can be made for it, and judged."""
        return isinstance(self.examples, Examples)

    @property
    def finds_regions(self) -> bool:
        return self.editor.pipeline.transformer.config.mask_in_context


class EditTab:
    """Where images are edited.

    Attributes:
      outputs: all that shows a workspace; what the methods below return or yield goes there.
    """

    def __init__(self, studio: Studio) -> None:
        """Places everything and says what happens on clicks."""
        self.studio, self.pipeline = studio, studio.editor.pipeline
        self.visit = gr.State(Visit(), time_to_live=KEEP_DESK_S)
        with gr.Row():
            with gr.Column():
                self._place_picture()
            with gr.Column():
                self._place_words()
        self.samples, self.history = strip("samples"), strip("history")
        self.outputs = [
            *(self.visit, self.canvas, self.where, self.prompt, self.words_note, self.notice),
            *(self.view, self.story, self.samples, self.history),
        ]
        self._connect()

    def _place_picture(self) -> None:
        with gr.Row():
            self.upload = gr.UploadButton(
                "Load an image", file_types=["image"], elem_id="upload", min_width=140
            )
            self.scene = gr.Button("A random scene", visible=self.studio.of_shapes, elem_id="scene")
        about = (
            "Region to edit. Paint with the pointer, or move with the arrow keys and press space on a cell."
        )
        self.canvas = canvas([REGION_COLOR], about, elem_id="canvas")
        ways = [FIND, PAINT, WHOLE] if self.studio.finds_regions else [PAINT, WHOLE]
        self.where = gr.Radio(ways, value=ways[0], label="Where to edit", elem_id="where")

    def _place_words(self) -> None:
        self.examples: list[tuple[ExampleEdit, gr.Button]] = []
        placeholder = None
        if tries := self._tries():
            gr.Markdown("Click one to try it on its picture:")
            with gr.Row(elem_id="examples"):
                self.examples = [(one, gr.Button(one.words, size="sm")) for one in tries]
            placeholder = f"such as: {tries[0].words}"
        asks = "What to do" if self.studio.finds_regions else "What the result shows"
        self.prompt = gr.Textbox(label=asks, placeholder=placeholder, elem_id="prompt", max_length=2000)
        self.words_note = gr.HTML(elem_id="words_note")
        with gr.Row():
            self.go = gr.Button("Edit", variant="primary", elem_id="edit", min_width=70)
            self.back = gr.Button("Undo", elem_id="undo", min_width=70)
            self.save = gr.Button("Download", elem_id="save", min_width=70)
        self.file = gr.DownloadButton(visible="hidden", elem_id="file")
        self.notice = gr.HTML(elem_id="notice")
        self.story = gr.Markdown(elem_id="story")
        self.view = gr.Image(
            label="The edit, its cells outlined", format="png", elem_id="view", buttons=["fullscreen"]
        )
        with gr.Accordion("How it is drawn", open=False):
            self.count = gr.Slider(1, MOST_SAMPLES, 1, step=1, label="Samples", elem_id="count")
            self.draws = SamplingFields.place(self.pipeline.defaults.sampling)

    def _connect(self) -> None:
        outputs, notice = self.outputs, self.notice
        self.upload.upload(
            says(self.open_image, notice),
            [self.visit, self.upload],
            outputs,
            api_name="open",
            show_progress="minimal",
            **MODEL,
        )
        self.scene.click(
            self.random_scene, self.visit, outputs, api_name="scene", show_progress="hidden", **MODEL
        )
        self.canvas.input(None, None, self.where, js=f"() => {PAINT!r}", api_visibility="private")
        how = [self.count, *self.draws.fields]
        asked = [self.visit, self.canvas, self.prompt, self.where, *how]
        on_either(self.go.click, self.prompt.submit, says(self.edit, notice), asked, outputs, "edit")
        for example, button in self.examples:
            button.click(
                says(self._example(example), notice),
                [self.visit, *how],
                outputs,
                show_progress="hidden",
                api_visibility="private",
                **MODEL,
            )
        self.prompt.change(
            lambda words: notices(warnings=on_words(self.pipeline, words)),
            self.prompt,
            self.words_note,
            show_progress="hidden",
            trigger_mode="always_last",
            queue=False,
            api_visibility="private",
        )
        self.back.click(
            says(self.undo, notice), self.visit, outputs, api_name="undo", show_progress="hidden", **MODEL
        )
        self.samples.select(
            says(self.take, notice), self.visit, outputs, show_progress="hidden", api_visibility="private"
        )
        saved = self.save.click(
            says(self.write, notice), self.visit, [self.file, notice], api_visibility="private", **MODEL
        )
        saved.success(None, None, None, js=_SAVE)

    def open_first(self, visit: Visit) -> Values:
        """What a visitor finds: a picture to try things on, where there is one for the model."""
        if not (tries := self._tries()):
            return {self.story: "Load an image to begin."}
        told = "This is a scene to try things on" if self.studio.of_shapes else "A picture to try things on"
        return self._open_example(visit, tries[0], told)

    def open_image(self, visit: Visit, image: str | Image.Image | None) -> Values:
        if image is None:
            raise UserError("there is no image yet")
        at = self._open(visit, image)
        width, height = at.session.image.size
        return self._shown(visit, f"{width} × {height} pixels")

    def random_scene(self, visit: Visit) -> Values:
        image, caption = self.studio.examples.random(self.pipeline.image_size)
        self._open(visit, image)
        return self._shown(visit, f"The scene: {caption}")

    def _tries(self) -> tuple[ExampleEdit, ...]:
        return self.studio.examples.tries if self.studio.examples is not None else ()

    def _open_example(self, visit: Visit, example: ExampleEdit, told: str) -> Values:
        self._open(visit, example.picture(self.pipeline.image_size))
        return self._shown(visit, told)

    def _open(self, visit: Visit, image: str | Image.Image) -> Workspace:
        return visit.open(Workspace.open(self.studio.editor, image, self.studio.max_pixels))

    def _example(self, example: ExampleEdit):
        """What a click on an example does: its picture anew, and the edit where it can find the region."""
        where = FIND if self.studio.finds_regions else WHOLE

        def run(visit: Visit, *how: float) -> Iterator[Values]:
            yield self._open_example(visit, example, "") | {self.prompt: example.words, self.where: where}
            yield from self.edit(visit, None, example.words, where, *how)

        return run

    def edit(
        self, visit: Visit, painting: Any, words: str, where: str, how_many: float, *how: float
    ) -> Iterator[Values]:
        at, words = visit.at(), check_words(words)
        self.pipeline.require_short(words)
        image, found = at.session.image, where == FIND
        mask = {FIND: AUTO, WHOLE: None}.get(where, PAINT)
        if mask == PAINT:
            mask = painted_mask(painted_layer(painting), image.size)
        seed, sampling = self.draws.read(*how)
        warned = on_picture(self.pipeline, at.psnr())
        unknown = notices(warnings=on_words(self.pipeline, words))
        yield {self.notice: notices(warnings=warned), self.words_note: unknown, self.story: "…"}

        def partly(drawing: Drawing | None) -> Values:
            visit.require(at)
            if drawing is None:
                return {self.story: f"waiting: {self.studio.editor.num_open} edits are drawn or wait"}
            large = on_region(share_to_draw(drawing, image.size), found)
            return {
                self.view: show_partly(drawing),
                self.story: f"{drawing.step} of {drawing.num_steps} cells",
                self.notice: notices(warnings=[*warned, *large]),
            }

        options = {"seed": seed, "num_samples": int(how_many), "sampling": sampling}
        try:
            samples = yield from each(at.propose(words, mask, **options), partly)
            visit.require(at)
        except CancelledError:  # another picture is open: what this edit may have painted over comes back
            shown = self._shown(visit, visit.workspace.told, visit.workspace.warned)
            yield {part: shown[part] for part in (self.view, self.story, self.notice)}
            return
        at.take_turn(words, image, samples)
        result, seconds = samples[0], sum(samples[0].timings.values())
        outside = "" if bool(result.region.all()) else "; every pixel outside them is as it was"
        count = f"{result.num_tokens} of {sum(len(crop.codes) for crop in result.crops)}"
        large = on_region(float(result.region.float().mean()), found)
        yield self._shown(visit, f"{count} cells edited in {seconds:.1f} s{outside}", large)

    def undo(self, visit: Visit) -> Values:
        visit.at().undo()
        return self._shown(visit, "One edit taken back")

    def take(self, visit: Visit, chosen: gr.EventData) -> Values:
        visit.at().choose(chosen.index)
        return self._shown(visit, f"Sample {chosen.index + 1} taken")

    def write(self, visit: Visit) -> Values:
        """The image as a file, for the browser to fetch."""
        return {self.file: str(visit.at().save(os.environ["GRADIO_TEMP_DIR"])), self.notice: ""}

    def _shown(self, visit: Visit, told: str, warnings: list[str] | None = None) -> Values:
        """All outputs, for a workspace whose image has changed."""
        at, grid = visit.at(), self.pipeline.grid
        session, psnr, turns = at.session, at.psnr(), at.session.history
        at.told, at.warned = told, warnings or []
        view, label = None, "The edit, its cells outlined"
        if turns:
            view = show_result(turns[-1].result)
        elif is_far(self.pipeline, psnr):
            view, label = fit_page(at.reconstruction), "What the model sees of this picture"
        if not turns:
            told = f"{told}; {on_reconstruction(self.pipeline, psnr)}" if told else ""
        words = ["start", *(turn.prompt for turn in turns)]
        several = [(one.image, f"sample {i + 1}") for i, one in enumerate(at.samples)]
        return {
            self.visit: visit,
            self.canvas: canvas_value(session.image, grid, f"the image after {len(turns)} edits"),
            self.view: gr.update(value=view, label=label),
            self.story: told,
            self.notice: notices(warnings=[*on_picture(self.pipeline, psnr), *at.warned]),
            self.samples: strip_value("Ways to do it: click one to take it", several, at.taken)
            if len(several) > 1
            else "",
            self.history: strip_value("So far", list(zip(session.images, words, strict=True))),
        }
