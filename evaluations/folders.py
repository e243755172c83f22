"""Folders of images: what is in them, and loading it in batches."""

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


def images_by_name(folder: str | Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in list_images(folder, (*IMAGE_SUFFIXES, ".gif")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise UserError(f"{files[name]} and {path} share a name; keep one of them")
        files[name] = path
    return files


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
