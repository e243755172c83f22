"""The pictures and captions of a text-to-image evaluation, cut as the published evaluation cuts them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dataset.testsets.folders import name_differences
from evaluations.folders import IMAGE_SUFFIXES, natural_key
from evaluations.t2i.flags import WHOLE
from runtime.errors import UserError
from runtime.files import without_mac_metadata
from runtime.logging import get_logger
from runtime.texts import read_lines

log = get_logger(__name__)


def list_generated(fake_dir: str | Path) -> list[Path]:
    """The .png files of `<fake_dir>/images` in natural order, 2.png before 10.png; warns of others."""
    folder = Path(fake_dir) / "images"
    pictures = [p for p in without_mac_metadata(folder.glob("*")) if p.suffix.lower() in IMAGE_SUFFIXES]
    paths = [path for path in pictures if path.suffix.lower() == ".png"]
    if not paths:
        raise UserError(f"{folder} holds no .png files; --fake_dir is the folder above images/")
    if others := [path.name for path in pictures if not path.name.lower().endswith(".png")]:
        log.warning("%s: %d pictures are no .png, so not scored, such as %s", folder, len(others), others[0])
    return sorted(paths, key=lambda path: natural_key(path.name))


def read_captions(fake_dir: str | Path, images: Sequence[Path]) -> list[str]:
    """The lines of `<fake_dir>/captions.txt`, the first for the image 0 (`0.png`, `000000.png`).

    Args:
      images: those of `list_generated`.
    Raises:
      UserError: the file is missing, or its lines have not one image each; names images missing and extra.
    """
    path = Path(fake_dir) / "captions.txt"
    captions = read_lines(
        path,
        "it holds a caption a line, the first for 000000.png. --clip_model4eval WO does without captions",
    )
    by_number = {int(image.stem): image.name for image in images if image.stem.isdecimal()}
    missing = {f"{number:06d}.png" for number in range(len(captions)) if number not in by_number}
    extra = {image.name for image in images} - {by_number.get(number) for number in range(len(captions))}
    if missing or extra:
        differences = name_differences(missing, extra, path.name)
        if not missing and extra == {name for n, name in by_number.items() if n >= len(captions)}:
            differences += " LlamaGen's sampler fills its last batch with such images: delete them."
        raise UserError(
            f"{path} holds {len(captions)} captions, but {path.parent / 'images'} {len(images)} images; each "
            f"is named by the number of its line, from 0.{differences}"
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
