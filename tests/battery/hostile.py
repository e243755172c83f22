"""Test 6: nothing in a checkpoint is executed, none takes more memory than its size allows, all are named."""

from __future__ import annotations

import argparse
import builtins
import io
import json
import os
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from autoregressive.editing.pipeline import EditingPipeline
from runtime.checkpoint import load_checkpoint
from tests.battery.cases import Assets, Case, in_little_memory

MEMORY = 1 << 30  # bytes that reading may take on top
HUGE = 1 << 40


class _Calls:
    """Pickles as a call: whoever unpickles it with plain pickle makes the call."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class _SetsState(argparse.Namespace):
    """Pickles as a Namespace whose state is another call."""

    def __reduce__(self):
        return argparse.Namespace, (), _Calls(os.system, f"touch {self.marker}")


def cases() -> list[Case]:
    written = {
        "os.system": lambda path, marker: _torch(path, _Calls(os.system, f"touch {marker}")),
        "eval": lambda path, marker: _torch(path, _Calls(eval, f"open({str(marker)!r}, 'w')")),
        "exec, deep in the optimizer": lambda path, marker: torch.save(
            {"model": {}, "optimizer": {"state": [{"a": _Calls(exec, f"open({str(marker)!r}, 'w')")}]}}, path
        ),
        "subprocess.Popen": lambda path, marker: _torch(
            path, _Calls(subprocess.Popen, ["touch", str(marker)])
        ),
        "open for writing": lambda path, marker: _torch(path, _Calls(builtins.open, str(marker), "w")),
        "pickle in a pickle": lambda path, marker: _torch(
            path, _Calls(pickle.loads, pickle.dumps(_Calls(os.system, f"touch {marker}")))
        ),
        "torch.load in a pickle": _load_in_load,
        "Namespace with a call as its state": lambda path, marker: _torch(path, _SetsState(marker=marker)),
        "plain pickle, no zip": lambda path, marker: path.write_bytes(
            pickle.dumps({"model": _Calls(os.system, f"touch {marker}")})
        ),
        "zip bomb": _zip_bomb,
        "bytearray of a terabyte": lambda path, marker: _torch(path, _Calls(bytearray, HUGE)),
        "safetensors with a huge header": lambda path, marker: path.with_suffix(".safetensors").write_bytes(
            struct.pack("<Q", HUGE) + b"{}"
        ),
        "safetensors with a huge shape": _huge_safetensors,
    }
    hostile = [Case(name, partial(_refused, write)) for name, write in written.items()]
    return [
        *hostile,
        Case("one number shown as a terabyte", _expanded),
        Case("wrong shapes", _wrong_shapes),
    ]


def _refused(write: Callable[[Path, Path], Any], assets: Assets, folder: Path) -> None:
    path, marker = folder / "evil.pt", folder / "executed"
    write(path, marker)
    path = next(p for p in folder.iterdir() if p.stem == "evil")
    message = _in_little_memory(lambda: load_checkpoint(path))
    assert str(path) in message, f"the file is not named: {message}"
    assert not marker.exists(), "the checkpoint has executed something"


def _expanded(assets: Assets, folder: Path) -> None:
    path = folder / "evil.pt"
    content = torch.load(assets.editor, weights_only=True)
    name = next(iter(content["model"]))
    content["model"][name] = torch.zeros(1).expand(HUGE)
    torch.save(content, path)
    message = _in_little_memory(lambda: EditingPipeline.load(assets.vq, path, assets.t5))
    assert str(path) in message and "misshapen" in message, message


def _wrong_shapes(assets: Assets, folder: Path) -> None:
    path = folder / "evil.safetensors"
    content = torch.load(assets.editor, weights_only=True)
    state = {name: torch.zeros(3, 5) for name in content["model"]}
    save_file(state, path, {"args": json.dumps(content["args"])})
    message = _in_little_memory(lambda: EditingPipeline.load(assets.vq, path, assets.t5))
    assert str(path) in message and "misshapen" in message, message


def _in_little_memory(work: Callable[[], Any]) -> str:
    """The message of the `UserError` that `work` ends with, in a process that may grow by `MEMORY` only."""
    message = in_little_memory(work, MEMORY)
    assert message.startswith("UserError: "), message
    return message


def _torch(path: Path, value: Any) -> None:
    torch.save({"model": {"weight": torch.zeros(1)}, "args": value}, path)


def _load_in_load(path: Path, marker: Path) -> None:
    inner = io.BytesIO(pickle.dumps(_Calls(os.system, f"touch {marker}")))
    _torch(path, _Calls(torch.load, inner.getvalue()))


def _zip_bomb(path: Path, marker: Path) -> None:
    """A checkpoint with a compressed note: a megabyte that unpacks to a quarter of a gigabyte."""
    plain = path.with_suffix(".plain")
    torch.save({"model": {"weight": torch.zeros(1)}, "args": {"note": "0" * (1 << 28)}}, plain)
    with (
        zipfile.ZipFile(plain) as whole,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb,
    ):
        for entry in whole.namelist():
            with whole.open(entry) as source, bomb.open(entry, "w") as target:
                while chunk := source.read(1 << 20):
                    target.write(chunk)
    plain.unlink()


def _huge_safetensors(path: Path, marker: Path) -> None:
    header = {"weight": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}}
    text = json.dumps(header).encode()
    path.with_suffix(".safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
