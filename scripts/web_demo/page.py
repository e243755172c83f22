"""The demo's page: its tabs, and what leads from one to another."""

from __future__ import annotations

import re
from collections.abc import Sequence

import gradio as gr

from scripts.web_demo.advice import about_model
from scripts.web_demo.draw_tabs import draw_tab, scaling_tab
from scripts.web_demo.edit_tab import EditTab, Studio
from scripts.web_demo.widgets import MODEL, PIECES, says

_LONG = 500  # characters of a line about a model, from which on it is folded


def build_page(studios: Sequence[Studio]) -> gr.Blocks:
    """A page for each studio, with a bar that leads from one to another where there are several.

    Uploads and results that gradio keeps for a moment are deleted after minutes.
    """
    first, *others = studios
    with gr.Blocks(title="NEP: edit a region", analytics_enabled=False, delete_cache=(60, 600)) as page:
        if others:
            gr.Navbar(main_page_name=first.name)
        _place(page, first)
    for studio in others:
        with page.route(studio.name, f"model-{re.sub('[^a-zA-Z0-9._-]+', '-', studio.name)}"):
            gr.Navbar(main_page_name=first.name)
            _place(page, studio)
    return page


def _place(page: gr.Blocks, studio: Studio) -> None:
    """All tabs of a studio."""
    gr.Markdown("# Say what to change, and where\nOutside the edited cells every pixel stays as it was.")
    about = about_model(studio.name, studio.editor.pipeline)
    gr.HTML("".join(map(_line, about)), elem_id="model")
    with gr.Tabs() as tabs:
        with gr.Tab("Edit", id="edit"):
            editing = EditTab(studio)
        if studio.painter is not None:
            example = studio.examples.caption if studio.examples else ""
            with gr.Tab("Draw", id="draw"):
                drawn, send = draw_tab(studio.painter, example)
            with gr.Tab("Spend more", id="spend"):
                scaling_tab(studio.painter, example, of_shapes=studio.of_shapes)
            open_drawn, given = says(editing.open_image, editing.notice), [editing.visit, drawn]
            done = send.click(open_drawn, given, editing.outputs, api_visibility="private", **MODEL)
            done.success(lambda: gr.Tabs(selected="edit"), None, tabs, api_visibility="private")
    page.load(
        editing.open_first,
        editing.visit,
        editing.outputs,
        show_progress="hidden",
        api_visibility="private",
        **MODEL,
    )


def _line(words: str) -> str:
    """A line about a model, as HTML; what is long, as a vocabulary can be, is shown when asked for."""
    if len(words) <= _LONG:
        return str(PIECES.line(words))
    head, _, rest = words.partition(": ")
    return str(PIECES.folded(head, rest))
