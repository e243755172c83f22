"""Folders of images: what is in them, what is missing, and loading it in batches."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from runtime.errors import UserError
from runtime.files import without_mac_metadata

Loaded = TypeVar("Loaded")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
# What counts as a result, and is superfluous where no list names it.
_RESULT_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
_MAX_NAMES = 10


def list_images(folder: str | Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """The images in a folder and its subfolders, in natural order: 2.png before 10.png.

    Raises:
      UserError: it is no folder, or holds no images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    paths = without_mac_metadata(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    if not paths:
        raise UserError(f"{folder} holds no images ({', '.join(suffixes)})")
    return sorted(paths, key=lambda path: (natural_key(str(path)), str(path)))


def natural_key(text: str) -> list[int | str]:
    """A sort key that compares runs of digits as numbers and letters without case."""
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", text)]


def load_batches(
    paths: Sequence[Path], load: Callable[[Path], Loaded], batch_size: int, pool: ThreadPoolExecutor
) -> Iterator[list[Loaded]]:
    """Lists of loaded images; the next batch loads while one is in use."""
    loading: deque[list] = deque()
    for start in range(0, len(paths), batch_size):
        loading.append([pool.submit(load, path) for path in paths[start : start + batch_size]])
        if len(loading) == 2:
            yield [future.result() for future in loading.popleft()]
    for futures in loading:
        yield [future.result() for future in futures]


def require_folder(path: str | Path) -> Path:
    """`path`, which must be a folder."""
    if not Path(path).is_dir():
        raise UserError(f"{path}: no such folder")
    return Path(path)


def image_names(folder: Path) -> set[str]:
    """Every image below `folder`, as its path from there."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in _RESULT_SUFFIXES)
    return {file.relative_to(folder).as_posix() for file in without_mac_metadata(files)}


def name_differences(missing: set[str], extra: set[str], listing: str) -> str:
    """Sentences for a message: which files are missing, which ones `listing` does not mention."""
    kinds = (("Missing", missing), (f"Not in {listing}", extra))
    return "".join(f" {kind}: {_list_names(names)}." for kind, names in kinds if names)


def _list_names(names: set[str]) -> str:
    shown = sorted(names)[:_MAX_NAMES]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
