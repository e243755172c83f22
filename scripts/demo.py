"""A web page on which one paints a region, says what to do, and watches the cells appear.

    pip install -e .[demo]
    python scripts/demo.py                                       # the shipped models for shapes
    python scripts/demo.py --vq-ckpt vq.pt --gpt-ckpt NEP.pt RLlamaGen.pt --t5-path T5 --gpt-model R-GPT-XL

It listens on this machine only unless `--host` says otherwise, and keeps nothing on disk.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from autoregressive.pipeline import EditingPipeline
from autoregressive.pretrained import find_folder, read_config
from language.published import DEFAULT_T5
from runtime.config import option, parse
from runtime.distributed import pick_device
from runtime.errors import UserError, run_command
from runtime.logging import get_logger
from runtime.precision import PRECISIONS
from runtime.ranges import COUNT, POSITIVE, Range

if TYPE_CHECKING:
    from demo_page import Studio

log = get_logger(__name__)
_SHIPPED = "pretrained_models/shapes"


@dataclass(frozen=True)
class Demo:
    """A web page on which one paints a region, says what to do, and watches the cells appear."""

    TOPICS: ClassVar[dict[str, str]] = {"model": "models", "host": "the page"}

    model: str = option(_SHIPPED, help="folder of save_pretrained, or a hub id: its editor and its painter")
    vq_ckpt: str | None = option(None, help="tokenizer checkpoint, with --gpt-ckpt, instead of --model")
    gpt_ckpt: list[str] = option(
        [], help="transformer checkpoints: one with marks, one without, or one of them"
    )
    t5_path: str | None = option(None, help="folder of the text encoder, or of several; else the hub cache")
    t5_model_type: str | None = option(
        None,
        help=f"text encoder in that folder or cache; by default the one that --model names, or {DEFAULT_T5}",
    )
    vq_model: str = option("VQ-16", help="tokenizer name, for files that do not hold it")
    gpt_model: str | None = option(None, help="transformer name, for files that do not hold it")
    device: str = option("auto", help="auto, cpu or cuda")
    precision: str = option("none", help="of the transformer's weights", choices=sorted(PRECISIONS))
    host: str = option(
        "127.0.0.1", help="address to listen on; 0.0.0.0 lets others in: put a proxy before it"
    )
    port: int = option(
        7860, within=Range(at_least=0, at_most=65_535), help="of that address; 0 takes a free one"
    )
    max_upload_mb: int = option(10, within=COUNT, help="megabytes that an uploaded file may have")
    max_megapixels: float = option(16, within=POSITIVE, help="millions of pixels that an image may have")
    max_queue: int = option(
        32, within=COUNT, help="visitors who wait for the model; the next one is told to come back"
    )

    def __post_init__(self) -> None:
        if bool(self.vq_ckpt) != bool(self.gpt_ckpt):
            raise UserError("--vq-ckpt and --gpt-ckpt go together; without both, --model is taken")
        for name in ("max_upload_mb", "max_megapixels", "max_queue"):
            if getattr(self, name) <= 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: give a number above 0")


def load_pipelines(config: Demo) -> list[EditingPipeline]:
    """All transformers that the flags name."""
    options = {"device": pick_device(config.device), "dtype": PRECISIONS[config.precision]}
    if not config.vq_ckpt:
        folder = find_folder(config.model)
        names = read_config(folder).models
        options["t5_path"] = config.t5_path
        if config.t5_model_type:
            options["t5_model_type"] = config.t5_model_type
        return [EditingPipeline.from_pretrained(folder, name, **options) for name in names]
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
    from demo_page import Studio

    pipelines = load_pipelines(config)
    editors = [one for one in pipelines if one.transformer.config.mask_in_context]
    painters = [one for one in pipelines if not one.transformer.config.mask_in_context]
    return Studio(
        editor=(editors or painters)[0],
        painter=painters[0] if painters else None,
        scenes=not config.vq_ckpt and config.model == _SHIPPED,
        max_pixels=round(config.max_megapixels * 1e6),
    )


def main() -> None:
    config = parse(Demo)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="demo_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read as gradio is imported
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        try:
            import gradio as gr
            from demo_page import CSS, build_page
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


if __name__ == "__main__":
    run_command(main)
