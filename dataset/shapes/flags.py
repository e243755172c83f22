"""The flags of prepare_shapes.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dataset.shapes.edits import EDIT_KINDS, SETTINGS, VARIANTS, ShapesConfig
from runtime.config import check_ranges, option
from runtime.errors import UserError
from runtime.flags import models, shared
from runtime.flags.ranges import THREADS

_FORMAT_VERSION = 3


@dataclass(frozen=True)
class PrepareShapesConfig:
    """Writes the embedded data set of coloured shapes."""

    output_dir: str = shared.output_dir(
        what="folder to write; a finished set of the same settings is left alone"
    )
    num_train: int = shared.num_train(12000, "pairs")
    num_test: int = shared.num_test(500, " (turns of all sessions together)")
    num_emu: int = shared.num_emu()
    image_size: int = models.image_size(72, "the images in pixels")
    seed: int = shared.seed("another seed gives other scenes; the held-out split stays")
    setting: str = option(
        "easy",
        choices=tuple(SETTINGS),
        help="easy: aligned objects, plain backgrounds, 4 edit kinds; hard: jitter, textures, all 7 kinds",
    )
    variant: str | None = option(
        None,
        choices=tuple(VARIANTS),
        help="of the hard setting: offsets named by captions and adds; no offsets; 6 to 8 objects; adds that "
        "name no size, in boxes of which only the extent tells it",
    )
    edits: list[str] | None = shared.edit_kinds(EDIT_KINDS, "the setting's")
    write_parquet: bool = option(False, help="also write train/editing.parquet")
    num_workers: int = shared.num_workers(2, "processes", within=THREADS)

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        if self.variant is not None and self.setting != "hard":
            raise UserError(f"--variant {self.variant} is one of the hard setting: add --setting hard")

    @property
    def shapes(self) -> ShapesConfig:
        changes = {} if self.variant is None else VARIANTS[self.variant]
        config = replace(SETTINGS[self.setting], image_size=self.image_size, **changes)
        return config if self.edits is None else replace(config, edits=tuple(self.edits))

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the content of the files."""
        names = ("num_train", "num_test", "num_emu", "image_size", "seed", "setting")
        given = {name: getattr(self, name) for name in ("variant", "edits")}
        given = {name: value for name, value in given.items() if value is not None}
        return {"format": _FORMAT_VERSION} | {name: getattr(self, name) for name in names} | given
