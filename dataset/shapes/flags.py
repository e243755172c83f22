"""The flags of prepare_shapes.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dataset.shapes.edits import EDIT_KINDS, SETTINGS, ShapesConfig
from runtime.config import check_ranges, option
from runtime.flags import models, shared
from runtime.flags.ranges import COUNT_OR_NONE, THREADS

_FORMAT_VERSION = 3


@dataclass(frozen=True)
class PrepareShapesConfig:
    """Writes the embedded data set of coloured shapes."""

    output_dir: str = shared.output_dir(
        what="folder to write; a finished set of the same settings is left alone"
    )
    num_train: int = shared.num_train(12000, "pairs")
    num_test: int = shared.num_test(500, " (turns of all sessions together)")
    num_emu: int = option(
        100, within=COUNT_OR_NONE, help="held-out edits also written in the Emu Edit format"
    )
    image_size: int = models.image_size(72, "the images in pixels")
    seed: int = shared.seed("another seed gives other scenes; the held-out split stays")
    setting: str = option(
        "easy",
        choices=tuple(SETTINGS),
        help="easy: aligned objects, plain backgrounds, 4 edit kinds; hard: jitter, textures, all 7 kinds",
    )
    edits: list[str] | None = option(
        None,
        choices=EDIT_KINDS,
        help="kinds of edit instead of the setting's; one named twice comes twice as often",
    )
    write_parquet: bool = option(False, help="also write train/editing.parquet")
    num_workers: int = shared.num_workers(2, "processes", within=THREADS)

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))

    @property
    def shapes(self) -> ShapesConfig:
        config = replace(SETTINGS[self.setting], image_size=self.image_size)
        return config if self.edits is None else replace(config, edits=tuple(self.edits))

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the content of the files."""
        names = ("num_train", "num_test", "num_emu", "image_size", "seed", "setting")
        edits = {} if self.edits is None else {"edits": self.edits}
        return {"format": _FORMAT_VERSION} | {name: getattr(self, name) for name in names} | edits
