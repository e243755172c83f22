"""Loads the demo's models and serves its page."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoregressive.editing.edit_queue import EditQueue
from autoregressive.editing.model_folders import PRETRAINED, at_hand, find_folder
from autoregressive.editing.pipeline import EditingPipeline
from language.published import DEFAULT_T5
from runtime.devices import DECODING_PRECISIONS, pick_device
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.ports import listen
from scripts.web_demo.advice import vocabulary
from scripts.web_demo.config import Demo
from scripts.web_demo.examples import examples_for

if TYPE_CHECKING:
    from scripts.web_demo.edit_tab import Studio

log = get_logger("demo")


def make_studios(config: Demo) -> list[Studio]:
    """The models that the flags name; by default all in `pretrained_models`.

    Raises:
      UserError: a model that cannot be loaded, or none.
    """
    options = {"device": pick_device(config.device), "dtype": DECODING_PRECISIONS[config.precision]}
    if config.vq_ckpt:
        return [_studio(config.gpt_ckpt[0], _load_files(config, options), config)]
    options["t5_path"] = config.t5_path
    if config.t5_model_type:
        options["t5_model_type"] = config.t5_model_type
    names = list(dict.fromkeys(config.model or at_hand()))
    if not names:
        raise UserError(f"{PRETRAINED} has no folder of models: give --model, a folder or a hub id")
    return [
        _studio(name, list(EditingPipeline.all_from_pretrained(name, **options).values()), config)
        for name in names
    ]


def _load_files(config: Demo, options: dict[str, Any]) -> list[EditingPipeline]:
    """A pipeline for each transformer that the flags name by its file."""
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


def _studio(name: str, pipelines: Sequence[EditingPipeline], config: Demo) -> Studio:
    """Models with a queue each, which stay open until the program ends."""
    from scripts.web_demo.edit_tab import Studio

    editors = [one for one in pipelines if one.transformer.config.mask_in_context]
    painters = [one for one in pipelines if not one.transformer.config.mask_in_context]
    painter = EditQueue(painters[0], max_lanes=config.max_lanes) if painters else None
    return Studio(
        name=Path(name).name,
        editor=EditQueue(editors[0], max_lanes=config.max_lanes) if editors else painter,
        painter=painter,
        examples=examples_for(vocabulary(pipelines[0]), None if config.vq_ckpt else find_folder(name)),
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
        listen(config.host, config.port).close()  # gradio opens it once the models are loaded
        page = build_page(make_studios(config)).queue(max_size=config.max_queue)
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
