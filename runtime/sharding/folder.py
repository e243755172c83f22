"""Checkpoints as folders: torch's distributed checkpoint (DCP), to which every rank writes its own parts.

    0000100.dcp/
      state.pt         the checkpoint's dictionary, without the content of its large tensors
      __0_0.distcp …   these, each rank's parts
      .metadata        which part stands where
      manifest.sha256  of all files, as `sha256sum -c` checks it inside the folder

`parts` writes and reads the middle two.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.files import file_sha256, flush
from runtime.sharding.names import MANIFEST, METADATA, STATE, Place
from runtime.sharding.tensors import is_sharded

Like = Callable[[Place, Tensor], Tensor | None]
"""Of a place and what stands there: a sharded tensor, of which this rank wants its part, as it has it there;
None for all of it."""


def is_folder(path: str | Path) -> bool:
    """Whether there is a checkpoint in a folder, whole or not."""
    path = Path(path)
    return path.is_dir() and any((path / name).exists() for name in (STATE, MANIFEST, METADATA))


def placed_values(content: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """The leaves of nested dicts, lists and tuples, each with its place."""
    if isinstance(content, dict):
        items: Iterable[tuple[Any, Any]] = content.items()
    elif isinstance(content, list | tuple):
        items = enumerate(content)
    else:
        yield place, content
        return
    for key, value in items:
        yield from placed_values(value, (*place, key))


def replaced(content: Any, change: Callable[[Place, Tensor], Tensor], place: Place = ()) -> Any:
    """Nested dicts, lists and tuples with another tensor in the place of each."""
    if isinstance(content, Tensor):
        return change(place, content)
    if isinstance(content, dict):
        return {key: replaced(value, change, (*place, key)) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(replaced(value, change, (*place, i)) for i, value in enumerate(content))
    return content


def _is_large(value: Any) -> bool:
    return isinstance(value, Tensor) and (is_sharded(value) or value.dim() > 1)


def large_tensors(content: dict[str, Any]) -> dict[Place, Tensor]:
    """Those that a folder holds apart from its `state.pt`."""
    return {place: value.detach() for place, value in placed_values(content) if _is_large(value)}


def outline(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's dictionary with large tensors as their shape and type alone ("meta" tensors)."""

    def small(place: Place, tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") if _is_large(tensor) else tensor

    return replaced(content, small)


def manifest_lines(folder: Path, pattern: str) -> list[str]:
    """Lines of a manifest for the files that fit `pattern`."""
    return [f"{file_sha256(path)}  {path.name}\n" for path in sorted(folder.glob(pattern))]


def finish_folder(temporary: Path, path: Path, lines: str) -> None:
    """Gives a folder its manifest, flushes all of it, and renames: `path` is whole or absent.

    Args:
      lines: of the manifest, for the files of the ranks.
    """
    lines += "".join(manifest_lines(temporary, name)[0] for name in (STATE, METADATA))
    (temporary / MANIFEST).write_text(lines)
    for file in temporary.iterdir():
        flush(file)
    flush(temporary)
    if path.exists():  # of a run that was here before; damaged, else it would have gone on from there
        shutil.rmtree(path.rename(path.with_name(f".{path.name}.old.tmp")))
    os.replace(temporary, path)
    flush(path.parent)


def differing_files(folder: Path, *, small_ones_alone: bool) -> list[str]:
    """What is wrong with the files of a folder, by its manifest.

    Args:
      small_ones_alone: look whether the others are there, not into them.
    Raises:
      OSError, ValueError: the manifest cannot be read.
    """
    lines = (folder / MANIFEST).read_text().splitlines()
    wanted = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    problems = [f"{name} is not in its manifest" for name in (STATE, METADATA) if name not in wanted]
    for name, digest in wanted.items():
        if Path(name).name != name:
            problems.append(f"its manifest names {name}, outside of the folder")
        elif not (folder / name).is_file():
            problems.append(f"{name} is missing")
        elif small_ones_alone and name not in (STATE, METADATA):
            continue
        elif (found := file_sha256(folder / name)) != digest:
            problems.append(f"the SHA-256 of {name} is {found[:16]}… and its manifest says {digest[:16]}…")
    return problems


def filled(content: dict[str, Any], folder: Path, like: Like) -> dict[str, Any]:
    """An `outline` with the content of its large tensors, on the CPU where they are not sharded.

    Raises:
      ValueError: the folder is not what it should be.
    """
    from runtime.sharding.parts import read_parts  # most of a second

    outlined = [(place, t) for place, t in placed_values(content) if isinstance(t, Tensor) and t.is_meta]
    stored = sum(path.stat().st_size for path in folder.glob("*.distcp"))
    if (needed := sum(t.numel() * t.element_size() for _, t in outlined)) > stored:
        raise ValueError(f"its tensors would take {needed} bytes, and its files have {stored}")
    tensors: dict[Place, Tensor] = {}
    for place, t in outlined:
        pattern = like(place, t)
        if pattern is None:
            tensors[place] = torch.empty(t.shape, dtype=t.dtype)
        else:
            tensors[place] = torch.empty_like(pattern, dtype=t.dtype)
    read_parts(folder, tensors)
    return replaced(content, lambda place, tensor: tensors.get(place, tensor))
