"""Loads the demo's models and serves its page."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from autoregressive.editing.edit_queue import EditQueue
from autoregressive.editing.pipeline import EditingPipeline
from language.published import DEFAULT_T5
from runtime.distributed import pick_device
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.precision import DECODING_PRECISIONS
from scripts.web_demo.advice import vocabulary
from scripts.web_demo.config import Demo
from scripts.web_demo.examples import examples_for

if TYPE_CHECKING:
    from scripts.web_demo.edit_tab import Studio

log = get_logger("demo")


def load_pipelines(config: Demo) -> list[EditingPipeline]:
    """All transformers that the flags name."""
    options = {"device": pick_device(config.device), "dtype": DECODING_PRECISIONS[config.precision]}
    if not config.vq_ckpt:
        options["t5_path"] = config.t5_path
        if config.t5_model_type:
            options["t5_model_type"] = config.t5_model_type
        return list(EditingPipeline.all_from_pretrained(config.model, **options).values())
    return [
        EditingPipeline.load(
            config.vq_ckpt,
            ckpt,
            config.t5_path,
            config.t5_model_type or DEFAULT_T5,
            vq_model=config.vq_model,
            gpt_model=config.gpt_model,
            **options,
        )
        for ckpt in config.gpt_ckpt
    ]


def make_studio(config: Demo) -> Studio:
    """The models with a queue each, which stay open until the program ends."""
    from scripts.web_demo.edit_tab import Studio

    pipelines = load_pipelines(config)
    editors = [one for one in pipelines if one.transformer.config.mask_in_context]
    painters = [one for one in pipelines if not one.transformer.config.mask_in_context]
    painter = EditQueue(painters[0], max_lanes=config.max_lanes) if painters else None
    named = config.gpt_ckpt[0] if config.vq_ckpt else config.model
    return Studio(
        name=Path(named).name,
        editor=EditQueue(editors[0], max_lanes=config.max_lanes) if editors else painter,
        painter=painter,
        examples=examples_for(vocabulary(pipelines[0])),
        max_pixels=round(config.max_megapixels * 1e6),
    )


def serve(config: Demo) -> None:
    """Loads the models and serves the page until the program is ended."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="demo_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read as gradio is imported
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        try:
            import gradio as gr

            from scripts.web_demo.page import build_page
            from scripts.web_demo.widgets import CSS
        except ModuleNotFoundError as error:
            raise UserError(f"{error.name} is not installed: pip install -e .[demo]") from error
        page = build_page(make_studio(config)).queue(max_size=config.max_queue)
        fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # none from elsewhere
        try:
            _, address, _ = page.launch(
                server_name=config.host,
                server_port=config.port or None,
                max_file_size=f"{config.max_upload_mb}mb",
                theme=gr.themes.Default(**fonts),
                css=CSS,
                footer_links=[],
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise UserError(f"port {config.port} cannot be opened ({error}); give another --port") from None
        log.info("open %s (ready after %.1f s; Ctrl-C ends it)", address, time.perf_counter() - start)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder goes
        page.block_thread()
