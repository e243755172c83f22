"""Checkpoints: written whole or not at all, read without executing anything, refused where they differ.

Beside a checkpoint stands its manifest, `<name>.sha256`, as `sha256sum` writes and checks it; one that is a
folder (`runtime.sharding.folder`) holds its own. Neither torch nor safetensors would notice a flipped bit.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import nn

from runtime.containers import unwrap
from runtime.errors import UserError
from runtime.files import file_sha256, require_regular, utf8_name, write_atomic
from runtime.sharding import folder
from runtime.sharding.names import MANIFEST, STATE
from runtime.sharding.tensors import sharded_like
from runtime.texts import write_text

_Settings = TypeVar("_Settings")


def weights_fingerprint(module: nn.Module) -> str:
    """Tells models in memory apart, in hexadecimal: the SHA-256 of a sample of every weight."""
    digest = hashlib.sha256()
    for name, weight in module.state_dict().items():
        sample = weight.flatten()[:: max(1, weight.numel() // 1024)].float().cpu()
        digest.update(f"{name} {tuple(weight.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()


def manifest_path(path: str | Path) -> Path:
    """Where the manifest of a checkpoint stands."""
    return Path(f"{path}.sha256")


def _write_with_manifest(path: Path, write: Callable[[Path], None]) -> None:
    """`write_atomic`, with the manifest first: what appears under its name can be checked from then on.

    While a file takes another one's place, its manifest has a line for each.
    """
    manifest = manifest_path(path)
    before = manifest.read_text() if path.exists() and manifest.exists() else ""
    lines = []

    def write_both(temporary: Path) -> None:
        write(temporary)
        lines.append(f"{file_sha256(temporary)}  {path.name}\n")
        write_text(manifest, lines[0] + before)

    write_atomic(path, write_both)
    if before:
        write_text(manifest, lines[0])


def require_whole(path: str | Path, *, needs_manifest: bool = False, small_files_alone: bool = False) -> None:
    """Compares a checkpoint with its manifest.

    Args:
      needs_manifest: a file without one is refused too; published files have none.
      small_files_alone: of a folder; its other files have been looked into.
    Raises:
      UserError: it is not what was written.
    """
    if folder.is_folder(path):
        _require_whole_folder(Path(path), small_files_alone)
        return
    manifest = manifest_path(path)
    require_regular(manifest, "a manifest")
    try:
        wanted = [line.split(maxsplit=1)[0] for line in manifest.read_text().splitlines() if line.strip()]
    except FileNotFoundError:
        if needs_manifest:
            raise UserError(
                f"{path} has no manifest {manifest.name}: its writing was cut short, or it is a copy; if you "
                f"trust it, make one with: sha256sum {path} > {manifest}"
            ) from None
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{manifest} cannot be read: {error}") from None
    found = file_sha256(path)
    if found not in wanted:
        raise UserError(
            f"{path} is damaged: its SHA-256 is {found[:16]}… and its manifest says "
            f"{(wanted or ['nothing'])[0][:16]}…; use another checkpoint"
        )


def _require_whole_folder(path: Path, small_files_alone: bool) -> None:
    try:
        problems = folder.differing_files(path, small_ones_alone=small_files_alone)
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{path / MANIFEST} cannot be read: {error}; use another checkpoint") from None
    if problems:
        raise UserError(f"{path} is damaged: {problems[0]}; use another checkpoint")


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Writes a `.pt` checkpoint of tensors and plain Python values, and its manifest."""
    _write_with_manifest(Path(path), partial(write_pt, content))


def write_pt(content: dict[str, Any], path: Path) -> None:
    """Writes a `.pt` file.

    Raises:
      OSError: the disk is full, or gone.
    """
    with open(path, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # closing its zip, torch complains of what a full disk has cut short
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def save_safetensors(path: str | Path, state: dict[str, torch.Tensor], args: dict[str, Any]) -> None:
    """Writes weights as `.safetensors`, for inference; `args`, what JSON can hold, goes into its header."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {"args": json.dumps(args)}
    _write_with_manifest(Path(path), lambda temporary: save_file(tensors, temporary, metadata))


def _load_safetensors(path: Path) -> dict[str, Any]:
    """{"model": weights, "args": what `save_safetensors` was given, or nothing}."""
    from safetensors import safe_open

    with utf8_name(path) as name, safe_open(name, "pt") as file:
        args = json.loads((file.metadata() or {}).get("args", "{}"))
        return {"model": {name: file.get_tensor(name) for name in file.keys()}, "args": args}


def _load_pt(path: Path) -> Any:
    with torch.serialization.safe_globals([argparse.Namespace]):
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            require_stored(path)
        # Mapped, so that the optimizer's two thirds of a file are only read when they are used.
        with utf8_name(path) as name:
            return torch.load(name, "cpu", weights_only=True, mmap=is_zip)


def _load_folder(path: Path, like: folder.Like | None) -> Any:
    outline = _load_pt(path / STATE)
    return folder.filled(outline, path, like or (lambda place, tensor: None))


def load_checkpoint(path: str | Path, like: folder.Like | None = None) -> dict[str, Any]:
    """Reads a `.pt` or `.safetensors` checkpoint, or a folder, onto the CPU.

    `.pt` files are read with `weights_only=True`; `argparse.Namespace`, which LlamaGen and NEP store as
    `args`, is the only class allowed besides torch's own. However a file wraps its weights, they come back
    as "model", and averages of them as "ema" (`unwrap`).

    Args:
      like: of a place and what stands there: a sharded tensor, as which it is wanted, or None for all of it.
        Given, it says too that the large files of a folder have been compared with its manifest.
    Raises:
      UserError: no such file, not what its manifest says, not a checkpoint, or one without weights.
    """
    path = Path(path)
    is_folder = folder.is_folder(path)
    if not is_folder:
        require_regular(path, "a checkpoint")
        if not path.is_file():
            raise UserError(f"checkpoint {path} does not exist; check the path")
    require_whole(path, small_files_alone=like is not None)
    try:
        if is_folder:
            content = _load_folder(path, like)
        else:
            _require_no_stand_in(path)
            content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pt(path)
            if like is not None:
                content = folder.replaced(content, lambda place, t: sharded_like(like(place, t), t))
    except UserError:
        raise
    except Exception as error:  # torch and safetensors raise many kinds for a damaged or foreign file
        reason = str(error).split("\n")[0].split(". ")[0][:200]
        raise UserError(
            f"{path} is not a checkpoint that can be read safely ({type(error).__name__}: {reason}); "
            "expected a .pt file written by torch.save, or .safetensors, holding tensors and plain values"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint dictionary")
    content = unwrap(content, path)
    if not isinstance(content.get("args"), dict | argparse.Namespace | None):
        raise UserError(f"{path}: its args are a {type(content['args']).__name__}, not settings by name")
    return content


def _require_no_stand_in(path: Path) -> None:
    """Refuses what downloads often leave in a checkpoint's place, saying what it is."""
    with path.open("rb") as file:
        start = file.read(512).lstrip()
    if not start:
        raise UserError(f"{path} is empty: its download or copy did not finish; get it again")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull, or download it")
    if start[:15].lower().startswith((b"<!doctype html", b"<html")):
        raise UserError(
            f"{path} is an HTML page, not a checkpoint: the link led to a web site; download the file"
        )


def require_stored(path: Path, below: str = "") -> None:
    """Refuses a zip that unpacks to more than its own size: torch writes none, and would unpack it.

    Args:
      below: how the names of the entries that count begin.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(e.file_size for e in archive.infolist() if e.filename.startswith(below))
    if unpacked > path.stat().st_size:
        raise ValueError(f"it would unpack to {unpacked} bytes, more than it has")


def checkpoint_args(content: dict[str, Any]) -> dict[str, Any]:
    """The settings stored in a checkpoint, ours (a dict) or the published kind (a Namespace)."""
    args = content.get("args") or {}
    return dict(vars(args)) if isinstance(args, argparse.Namespace) else dict(args)


def settings_from(kind: type[_Settings], values: Any, path: str | Path, name: str) -> _Settings:
    """The dataclass that a checkpoint's args hold as a dict under `name`; its fields are numbers and words.

    Raises:
      UserError: no dict, fields that are unknown or absent, or a value of another type.
    """
    if not isinstance(values, dict):
        raise UserError(f"{path}: its {name} is a {type(values).__name__}, not settings by name")
    known = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(map(str, values.keys() - known.keys())):
        raise UserError(
            f"{path} was written by a newer version: unknown settings {', '.join(unknown)} in its {name}"
        )
    needed = {n for n, field in known.items() if field.default is dataclasses.MISSING}
    if absent := sorted(needed - values.keys()):
        raise UserError(f"{path}: its {name} lacks {', '.join(absent)}")
    types = get_type_hints(kind)
    taken = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    for field, value in taken.items():
        if not _is_of(value, types[field]):
            raise UserError(f"{path}: its {name} has {field} {value!r}, which is no {_words(types[field])}")
    return kind(**taken)


def _is_of(value: Any, wanted: Any) -> bool:
    if get_origin(wanted) is tuple:
        return isinstance(value, tuple) and all(_is_of(item, get_args(wanted)[0]) for item in value)
    if wanted is float:
        return type(value) is int or type(value) is float and math.isfinite(value)
    return type(value) is wanted


def _words(wanted: Any) -> str:
    words = {int: "whole number", float: "finite number", bool: "true or false", str: "word"}
    return words.get(wanted, "list of whole numbers")


def load_weights(
    module: nn.Module,
    state_dict: dict[str, torch.Tensor],
    source: str | Path,
    may_miss: Sequence[str] = (),
    may_have: Sequence[str] = (),
    check: Callable[[], None] | None = None,
) -> None:
    """Copies weights into `module`, refusing every difference that is not expected.

    Args:
      source: the file, for the message.
      may_miss: names that may be absent from the file (they keep their initial values).
      may_have: names that the file may hold in excess (they are left out).
      check: called once the weights fit, before the first is copied; it may raise.
    Raises:
      UserError: lists the missing, unexpected and misshapen names.
    """
    own = module.state_dict()
    missing = [n for n in own if n not in state_dict and n not in may_miss]
    unexpected = [n for n in state_dict if n not in own and n not in may_have]
    misshapen = [
        f"{n} (file {tuple(state_dict[n].shape)}, model {tuple(own[n].shape)})"
        for n in own
        if n in state_dict and state_dict[n].shape != own[n].shape
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise UserError(
            f"{source} does not fit this model: {'; '.join(problems)}. "
            "Check the model name and the image size"
        )
    if check is not None:
        check()
    module.load_state_dict({n: t for n, t in state_dict.items() if n in own}, strict=False)
