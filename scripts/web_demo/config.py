"""The flags of demo.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from language.published import DEFAULT_T5
from runtime.config import check_ranges, option
from runtime.errors import UserError
from runtime.flags import models, shared
from runtime.flags.ranges import COUNT, POSITIVE


@dataclass(frozen=True)
class Demo:
    """A web page on which one paints a region, says what to do, and watches the cells appear."""

    TOPICS: ClassVar[dict[str, str]] = {"model": "models", "host": "the page"}

    model: list[str] = option(
        [],
        repeats=True,
        help="names of folders in pretrained_models, such as shapes, other folders, or hub ids: a page each, "
        "with its editor and its painter; default: all in pretrained_models",
    )
    vq_ckpt: str | None = models.vq_ckpt(more=", with --gpt-ckpt, instead of --model")
    gpt_ckpt: list[str] = models.gpt_ckpt(
        [], "transformer checkpoints: one with marks, one without, or one of them"
    )
    t5_path: str | None = models.t5_path()
    t5_model_type: str | None = models.t5_model_type(
        None, f"text encoder in that folder or cache; by default the one that --model names, or {DEFAULT_T5}"
    )
    vq_model: str = models.vq_model()
    gpt_model: str | None = models.gpt_model(None)
    device: str = shared.device()
    precision: str = models.decoding_precision()
    host: str = shared.host("put a proxy before it")
    port: int = shared.port(7860)
    max_upload_mb: int = option(10, within=COUNT, help="megabytes that an uploaded file may have")
    max_megapixels: float = option(16, within=POSITIVE, help="millions of pixels that an image may have")
    max_queue: int = option(
        32, within=COUNT, help="visitors who wait for the model; the next one is told to come back"
    )

    max_lanes: int = shared.max_lanes()

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        if self.model and self.vq_ckpt:
            raise UserError("--model and --vq-ckpt with --gpt-ckpt are two ways to say the same: give one")
        if bool(self.vq_ckpt) != bool(self.gpt_ckpt):
            raise UserError("--vq-ckpt and --gpt-ckpt go together; without both, --model is taken")
