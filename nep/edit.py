"""`nep edit photo.png "make the circle blue"`: one edit of a picture, with the models that come along."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import ClassVar

from autoregressive.editing.choices import AUTO, CROPS
from autoregressive.editing.model_folders import DEFAULT
from autoregressive.sample.flags import DrawConfig, PictureFlags
from runtime.config import argument, option, parse
from runtime.errors import UserError, run_command
from runtime.flags import shared


@dataclass(frozen=True)
class EditPicture(PictureFlags):
    """Edits a picture as the words say; every pixel outside the redrawn cells stays the file's own."""

    NEEDED: ClassVar[tuple[str, ...]] = ("mask", "output", "model", "crop", "seed")
    ONE_OF: ClassVar[tuple[tuple[str, ...], ...]] = ()
    EXAMPLES: ClassVar[str] = """
  nep edit photo.png "turn the large blue star into a circle"
  nep edit photo.png "a red hat on the cat" --mask region.png --model FOLDER --output edited.png
"""

    image: str = argument("picture to edit")
    prompt: str = argument("what to do, in quotes (zero-shot: what the result shows)")
    mask: str = shared.mask(AUTO)
    crop: str = shared.crop(CROPS, "auto")
    output: str | None = option(
        None,
        help="where the result goes (.png, .webp, .bmp, .jpg); default: beside the picture, by a free name",
    )
    overwrite: bool = shared.overwrite()

    def __post_init__(self) -> None:
        take_shipped(self)
        super().__post_init__()
        self.require_outputs(self.output, self.image, self.mask)
        for flag, path in self.written(self.output).items():
            require_new(path, self.overwrite, flag)


def take_shipped(config: PictureFlags | DrawConfig) -> None:
    """Takes the models that come along where none are named."""
    files = config.vq_ckpt, config.gpt_ckpt
    if config.model is None and files == (None, None):
        object.__setattr__(config, "model", DEFAULT)
    elif config.model is None and None in files:
        raise UserError("--vq-ckpt and --gpt-ckpt go together; or give --model, a folder that holds both")


def require_new(path: str | Path, overwrite: bool, flag: str = "--output") -> None:
    """Raises `UserError` where a file is that is not to be replaced."""
    if Path(path).exists() and not overwrite:
        raise UserError(f"{flag} {path} is there already: give another name, or --overwrite")


def free_name(beside: Path) -> Path:
    """`photo.edited.png` for `photo.jpg`, or with a number where that is taken."""
    for number in count(1):
        name = beside.with_name(f"{beside.stem}.edited{'' if number == 1 else f'-{number}'}.png")
        if not name.exists():
            return name


def main() -> None:
    config = parse(EditPicture)
    # PyTorch is imported once the flags are right.
    from autoregressive.sample.file_edits import FileEdit, as_mask, run_edits
    from language.caption_cleaning import require_words

    require_words(config.prompt, "the prompt")
    image = Path(config.image)
    output = free_name(image) if config.output is None else Path(config.output)
    run_edits([FileEdit(image, as_mask(config.mask), config.prompt, output)], config)
    print(output)


if __name__ == "__main__":
    run_command(main)
