"""The flags of score_drawings.py."""

from __future__ import annotations

from dataclasses import dataclass

from autoregressive.sample.flags import DrawConfig
from runtime.config import REQUIRED, option
from runtime.flags import shared
from runtime.flags.ranges import COUNT


@dataclass(frozen=True)
class ScoreDrawings(DrawConfig):
    """Draws captions of the shapes set, or of the emoji set, and scores the images."""

    captions: str = option(REQUIRED, help="t2i.jsonl of a shapes test set, or of the emoji set's drawings")
    emoji_scenes: str | None = option(
        None, help="scenes.json beside the captions of the emoji set, whose verifier judges then"
    )
    output_dir: str = shared.output_dir(what="gets drawings.json, drawings.png and images/")
    num_images: int = option(1000, within=COUNT, help="the first so many captions")
