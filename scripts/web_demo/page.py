"""The demo's page: its tabs, and what leads from one to another."""

from __future__ import annotations

import html

import gradio as gr

from scripts.web_demo.advice import about_model
from scripts.web_demo.draw_tabs import draw_tab, scaling_tab
from scripts.web_demo.edit_tab import EditTab, Studio
from scripts.web_demo.widgets import MODEL, says


def build_page(studio: Studio) -> gr.Blocks:
    """All tabs; uploads and results that gradio keeps for a moment are deleted after minutes."""
    with gr.Blocks(title="NEP: edit a region", analytics_enabled=False, delete_cache=(60, 600)) as page:
        gr.Markdown("# Say what to change, and where\nOutside the edited cells every pixel stays as it was.")
        about = about_model(studio.name, studio.editor.pipeline)
        gr.HTML("".join(f"<p>{html.escape(line)}</p>" for line in about), elem_id="model")
        with gr.Tabs() as tabs:
            with gr.Tab("Edit", id="edit"):
                editing = EditTab(studio)
            if studio.painter is not None:
                example = studio.examples.scene.caption() if studio.examples else ""
                with gr.Tab("Draw", id="draw"):
                    drawn, send = draw_tab(studio.painter, example)
                with gr.Tab("Spend more", id="spend"):
                    scaling_tab(studio.painter, example)
                open_drawn = says(editing.open_image, editing.notice)
                done = send.click(
                    open_drawn, [editing.visit, drawn], editing.outputs, api_visibility="private", **MODEL
                )
                done.success(lambda: gr.Tabs(selected="edit"), None, tabs, api_visibility="private")
        page.load(
            editing.open_first,
            editing.visit,
            editing.outputs,
            show_progress="hidden",
            api_visibility="private",
            **MODEL,
        )
    return page
