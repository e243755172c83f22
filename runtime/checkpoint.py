"""Checkpoints: written whole or not at all, read without executing anything, refused where they differ."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runtime.errors import UserError


def write_atomic(path: str | Path, write: Callable[[Path], None]) -> None:
    """Calls `write(temporary)` beside `path`, flushes, and renames: `path` is whole or absent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def weights_fingerprint(module: nn.Module) -> str:
    """Tells models in memory apart, in hexadecimal: the SHA-256 of a sample of every weight."""
    digest = hashlib.sha256()
    for name, weight in module.state_dict().items():
        sample = weight.flatten()[:: max(1, weight.numel() // 1024)].float().cpu()
        digest.update(f"{name} {tuple(weight.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Writes a `.pt` checkpoint of tensors and plain Python values."""
    write_atomic(path, lambda temporary: torch.save(content, temporary))


def save_safetensors(path: str | Path, state: dict[str, torch.Tensor], args: dict[str, Any]) -> None:
    """Writes weights as `.safetensors`, for inference; `args`, what JSON can hold, goes into its header."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_atomic(path, lambda temporary: save_file(tensors, temporary, {"args": json.dumps(args)}))


def _load_safetensors(path: Path) -> dict[str, Any]:
    """{"model": weights, "args": what `save_safetensors` was given, or nothing}."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        args = json.loads((file.metadata() or {}).get("args", "{}"))
        return {"model": {name: file.get_tensor(name) for name in file.keys()}, "args": args}


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a `.pt` or `.safetensors` checkpoint onto the CPU.

    `.pt` files are read with `weights_only=True`; `argparse.Namespace`, which LlamaGen and NEP store as
    `args`, is the only class allowed besides torch's own. A bare state dict comes back as {"model": …}.

    Raises:
      UserError: no such file, or not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; check the path")
    try:
        if path.suffix == ".safetensors":
            content = _load_safetensors(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):
                # Mapped, so that the optimizer's two thirds of a file are only read when they are used.
                content = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch and safetensors raise many kinds for a damaged or foreign file
        reason = str(error).split("\n")[0].split(". ")[0][:200]
        raise UserError(
            f"{path} is not a checkpoint that can be read safely ({type(error).__name__}: {reason}); "
            "expected a .pt file written by torch.save, or .safetensors, holding tensors and plain values"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint dictionary")
    if content and all(isinstance(v, torch.Tensor) for v in content.values()):
        return {"model": content}
    if not isinstance(content.get("model"), dict):
        raise UserError(f"{path} has the keys {sorted(map(str, content))}; a checkpoint needs 'model'")
    return content


def checkpoint_args(content: dict[str, Any]) -> dict[str, Any]:
    """The settings stored in a checkpoint, ours (a dict) or the published kind (a Namespace)."""
    args = content.get("args") or {}
    return dict(vars(args)) if isinstance(args, argparse.Namespace) else dict(args)


def load_weights(
    module: nn.Module,
    state_dict: dict[str, torch.Tensor],
    source: str | Path,
    may_miss: Sequence[str] = (),
    may_have: Sequence[str] = (),
) -> None:
    """Copies weights into `module`, refusing every difference that is not expected.

    Args:
      source: the file, for the message.
      may_miss: names that may be absent from the file (they keep their initial values).
      may_have: names that the file may hold in excess (they are left out).
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
    module.load_state_dict({n: t for n, t in state_dict.items() if n in own}, strict=False)


def list_checkpoints(folder: str | Path) -> list[Path]:
    """The step checkpoints (`0000100.pt`) in `folder`, oldest first."""
    return sorted(p for p in Path(folder).glob("*.pt") if re.fullmatch(r"\d+", p.stem))


def prune_checkpoints(folder: str | Path, keep: int) -> None:
    """Deletes the oldest step checkpoints beyond `keep`; `keep` ≤ 0 keeps all."""
    if keep > 0:
        for path in list_checkpoints(folder)[:-keep]:
            path.unlink()
