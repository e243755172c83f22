"""What a folder of results holds, and what it lacks or has too much beside a list."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import UserError
from runtime.files import without_mac_metadata

# What counts as a result, and is superfluous where no list names it.
_RESULT_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
_MAX_NAMES = 10


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
