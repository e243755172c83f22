"""The tabs of the demo's page on which a text-to-image model draws, once or with more tokens."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import gradio as gr
import pandas as pd
from PIL import Image

from autoregressive.editing.edit_queue import EditQueue
from autoregressive.editing.results import Drawing, Progress
from autoregressive.scaling.choices import METHODS, REWARDS
from autoregressive.scaling.rewards import build_reward
from autoregressive.scaling.search import SearchSettings, best_of_n, search
from autoregressive.scaling.tasks import Task, TaskBatch
from autoregressive.scaling.trace import strip_of
from scripts.web_demo.advice import on_words
from scripts.web_demo.following import follow
from scripts.web_demo.pictures import BRUSHES, ORDERS, SIDES, cell_order, fit_page, show_partly
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
)
from scripts.web_demo.workspace import check_words

MOST_ROUNDS, MOST_CANDIDATES = 16, 8


def draw_tab(painter: EditQueue, example: str) -> tuple[gr.State, gr.Button]:
    """Where images are drawn from words.

    Args:
      example: words to begin with.
    Returns:
      The image, and the button that wants it edited.
    """
    pipeline = painter.pipeline
    drawn = gr.State(time_to_live=KEEP_DESK_S)
    with gr.Row():
        with gr.Column():
            prompt = gr.Textbox(
                example, label="What the image shows", elem_id="draw_prompt", lines=2, max_length=2000
            )
            order = gr.Radio(ORDERS, value="raster", label="Order of the cells", elem_id="order")
            about = "The first colour comes first. Arrow keys move, space paints a cell."
            board = canvas(BRUSHES, about, elem_id="order_canvas", visible=False)
            with gr.Accordion("How it is drawn", open=False):
                draws = SamplingFields.place(pipeline.defaults.sampling)
            draw = gr.Button("Draw", variant="primary", elem_id="draw")
            notice = gr.HTML(elem_id="draw_notice")
        with gr.Column():
            view = gr.Image(label="The image", format="png", elem_id="drawn", buttons=["fullscreen"])
            send = gr.Button("Edit this image", elem_id="send")

    def run(words: str, name: str, painting: Any, *how: float) -> Iterator[Values]:
        words = check_words(words)
        seed, sampling = draws.read(*how)
        cells = cell_order(name, pipeline.grid, seed, painted_layer(painting))[None]
        yield {notice: notices(warnings=on_words(pipeline, words))}
        running: list[Future] = []

        def work(progress: Progress) -> Image.Image:
            options = {"seeds": [seed], "sampling": sampling, "orders": cells, "progress": progress}
            running.append(painter.submit_drawing([words], **options))
            return running[0].result()[0]

        def partly(drawing: Drawing | None) -> Values:
            return {view: gr.skip() if drawing is None else show_partly(drawing)}

        following = follow(work, lambda: [future.cancel() for future in running])
        image = yield from each(following, partly)
        yield {drawn: image, view: fit_page(image)}

    def choose_order(name: str) -> Any:
        white = canvas_value(Image.new("RGB", (SIDES[0], SIDES[0]), "white"), pipeline.grid, "an empty board")
        return gr.update(visible=name == "painted", value=white)

    order.change(choose_order, order, board, show_progress="hidden", api_visibility="private")
    asked = [prompt, order, board, *draws.fields]
    on_either(draw.click, prompt.submit, says(run, notice), asked, [drawn, view, notice], "draw")
    return drawn, send


def scaling_tab(painter: EditQueue, example: str, *, of_shapes: bool) -> None:
    """Where tokens are spent on one image until a reward is content.

    Args:
      example: words to begin with.
      of_shapes: whether it draws shapes, which have a reward of their own.
    """
    pipeline = painter.pipeline
    rewards = [name for name in REWARDS if of_shapes or name != "shapes"]
    gr.Markdown("The worst cells are drawn again in several random orders; what the reward prefers stays.")
    with gr.Row():
        with gr.Column():
            prompt = gr.Textbox(
                example, label="What the image shows", elem_id="spend_prompt", lines=2, max_length=2000
            )
            reward = gr.Dropdown(rewards, value="shapes" if of_shapes else "likelihood", label="Reward")
            rounds = gr.Slider(1, MOST_ROUNDS, 6, step=1, label="Rounds")
            candidates = gr.Slider(1, MOST_CANDIDATES, 4, step=1, label="Candidates a round")
            with gr.Accordion("How it is drawn", open=False):
                draws = SamplingFields.place(replace(pipeline.defaults.sampling, temperature=1.5))
            start = gr.Button("Start", variant="primary", elem_id="spend")
            notice = gr.HTML(elem_id="spend_notice")
        with gr.Column():
            image = gr.Image(label="Accepted rounds", format="png", elem_id="strip", buttons=["fullscreen"])
            curve = gr.LinePlot(
                x="tokens", y="reward", color="method", title="Reward by tokens spent", elem_id="curve"
            )
            story = gr.Markdown(elem_id="spend_story")

    def run(words: str, name: str, num_rounds: float, num: float, *how: float) -> Values:
        words = check_words(words)
        seed, sampling = draws.read(*how)
        settings = SearchSettings(rounds=int(num_rounds), candidates=int(num))
        judge = build_reward(name, pipeline)
        batch = TaskBatch(pipeline, [Task(words, seed=seed)], sampling)
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
        told = f"Reward {first.rounds[0].reward:.4g} at the start; at the end: {ends}"
        warned = notices(warnings=on_words(pipeline, words))
        return {
            image: strip_of(first, pipeline.grid),
            curve: pd.DataFrame(rows),
            story: told,
            notice: warned,
        }

    asked = [prompt, reward, rounds, candidates, *draws.fields]
    outputs = [image, curve, story, notice]
    start.click(says(run, notice), asked, outputs, api_name="spend", **MODEL)
