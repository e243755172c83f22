"""The flags of prepare_emoji.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.emoji.edits import STICKER_KINDS, EmojiConfig
from runtime.config import check_ranges, option
from runtime.errors import UserError
from runtime.flags import models, shared
from runtime.flags.ranges import SHARE, THREADS

_FORMAT_VERSION = 1


@dataclass(frozen=True)
class PrepareEmojiConfig:
    """Makes a data set of edits out of an emoji package."""

    package: str = shared.package()
    output_dir: str = shared.output_dir(
        what="folder to write; a finished set of the same settings is left alone"
    )
    num_train: int = shared.num_train(24000, "pairs")
    num_portraits: int = shared.num_portraits(2)
    num_test: int = shared.num_test(600, " (turns of all sessions together)")
    num_emu: int = shared.num_emu()
    natural_share: float = option(
        0.5, within=SHARE, help="of the edits, that lead to what an artist drew: a tone, a time, hair, ..."
    )
    num_sticker_names: int | None = shared.num_sticker_names(None)
    edits: list[str] | None = shared.edit_kinds(STICKER_KINDS, "all that stickers have, in training alone")
    image_size: int = models.image_size(72, "the images in pixels")
    seed: int = shared.seed("another seed gives other scenes; what is held out stays")
    num_workers: int = shared.num_workers(2, "processes", within=THREADS)

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        if not Path(self.package).exists():
            raise UserError(
                f"--package {self.package} does not exist; `npm pack emoji-datasource-google` brings the .tgz"
            )

    @property
    def emoji(self) -> EmojiConfig:
        return EmojiConfig(
            self.image_size,
            self.natural_share,
            num_sticker_names=self.num_sticker_names,
            sticker_kinds=STICKER_KINDS if self.edits is None else tuple(self.edits),
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the content of the files, beside the package."""
        names = ("num_train", "num_portraits", "num_test", "num_emu", "natural_share", "image_size", "seed")
        given = {name: getattr(self, name) for name in ("num_sticker_names", "edits")}
        given = {name: value for name, value in given.items() if value is not None}
        return {"format": _FORMAT_VERSION} | {name: getattr(self, name) for name in names} | given
