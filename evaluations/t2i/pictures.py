"""The pictures and captions of a text-to-image evaluation, cut as the published evaluation cuts them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from evaluations.folders import natural_key
from runtime.errors import UserError

WHOLE = -1  # eval_bottom: all rows


def list_generated(fake_dir: str | Path) -> list[Path]:
    """The files of `<fake_dir>/images/*.png` in natural order: 2.png before 10.png."""
    folder = Path(fake_dir) / "images"
    paths = sorted(folder.glob("*.png"), key=lambda path: natural_key(path.name))
    if not paths:
        raise UserError(f"{folder} holds no .png files; --fake_dir is the folder above images/")
    return paths


def read_captions(fake_dir: str | Path, num_images: int) -> list[str]:
    """The lines of `<fake_dir>/captions.txt`, one for each generated image in its order.

    Raises:
      UserError: the file is missing, or images and captions differ in number.
    """
    path = Path(fake_dir) / "captions.txt"
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); it holds a caption a line, in the order of the images. "
            "--clip_model4eval WO does without captions"
        ) from error
    # A line ends at a newline only: captions from the web hold other characters that splitlines() splits at.
    captions = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
    if len(captions) != num_images:
        raise UserError(
            f"{path} holds {len(captions)} captions, but {path.parent / 'images'} {num_images} images: "
            "every image needs its line"
        )
    return captions


def cut_picture(image: np.ndarray, side: int, bottom: int = WHOLE) -> np.ndarray:
    """The middle square of (H, W, 3) uint8, its long side cropped, at `side` pixels (Lanczos).

    Args:
      bottom: keep only so many rows from below; `WHOLE` keeps all.
    Returns:
      (side or bottom, side, 3) uint8.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    # Halves are rounded to even, as torchvision's centre crop does.
    top, left = round((height - short) / 2), round((width - short) / 2)
    square = Image.fromarray(image[top : top + short, left : left + short])
    cut = np.asarray(square.resize((side, side), Image.Resampling.LANCZOS))
    return cut if bottom == WHOLE else cut[side - bottom :]
