"""Test 16: what is no file is refused by name in a file's place, and never waited for."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from autoregressive.editing.model_folders import read_config
from autoregressive.sample.drawing import read_prompts
from autoregressive.sample.drawing_captions import read_captions
from autoregressive.sample.file_edits import read_jobs
from autoregressive.sample.flags import SampleEditing, SampleT2I
from dataset.packed.codes import load_codes
from dataset.packed.format import read_manifest
from dataset.prepare.caption_items import CaptionItem, PathRules, line_of, table_items
from dataset.prepare.tars import tar_jobs
from dataset.records.edit_records import JsonlEditRecords
from dataset.records.images import load_image
from dataset.records.parquet import require_columns
from dataset.records.t2i_records import read_t2i_jsonl
from dataset.testsets.emu_edit import read_valid_list
from dataset.testsets.magicbrush import read_sessions
from language.text_features import load_text_features
from runtime.checkpoint import load_checkpoint
from runtime.flags.settings_file import read_entries
from tests.battery.cases import Assets, Case, refused

LONGEST = 5.0  # seconds that a reader may take
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "training list": ("a.jsonl", lambda path: read_t2i_jsonl([path])),
    "edit list": ("a.jsonl", lambda path: JsonlEditRecords([path])),
    "--list": ("a.jsonl", lambda path: read_jobs(SampleEditing(list=str(path)))),
    "Emu list": ("a.json", read_valid_list),
    "sessions": ("edit_sessions.json", lambda path: read_sessions(path.parent)),
    "text features": ("a.npy", lambda path: load_text_features(path, 8)),
    "codes": ("a.npy", lambda path: load_codes(path, 9, 16)),
    "caption": ("a.txt", lambda path: line_of(
        CaptionItem("a.png", None, path, "a"), PathRules(path.parent), path
    )),
    "prompts": ("a.txt", lambda path: read_prompts(SampleT2I(prompt_file=str(path)))),
    "csv": ("a.csv", lambda path: list(table_items(path, None, None))),
    "prompt table": ("a.tsv", read_captions),
    "parquet": ("a.parquet", lambda path: require_columns(path, ())),
    "tar": ("a.tar", lambda path: list(tar_jobs([path]))),
    "config": ("a.yaml", lambda path: list(read_entries(str(path)))),
    "model folder": ("config.json", lambda path: read_config(path.parent)),
    "packed manifest": ("manifest.json", lambda path: read_manifest(path.parent)),
    "checkpoint": ("a.pt", load_checkpoint),
    "safetensors": ("a.safetensors", load_checkpoint),
    "picture": ("a.png", load_image),
}  # fmt: skip


def cases() -> list[Case]:
    return [
        *(Case(f"a pipe: {name}", partial(_pipe, *how)) for name, how in READERS.items()),
        Case("a pipe beside a checkpoint", _beside),
        Case("a socket", _socket),
        *(
            Case(f"a folder: {name}", partial(_folder, *READERS[name]))
            for name in ("--list", "config", "csv", "checkpoint")
        ),
        *(
            Case(f"/dev/zero: {name}", partial(_device, READERS[name][1]))
            for name in ("training list", "text features", "checkpoint")
        ),
    ]


@contextlib.contextmanager
def _nobody_waits_for(pipe: Path) -> Iterator[None]:
    """Lets whoever waits for the pipe's other end go after a while, and fails then."""
    waited: list[Path] = []

    def let_go() -> None:
        with contextlib.suppress(OSError):  # opens only if somebody waits
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            waited.append(pipe)

    timer = threading.Timer(LONGEST, let_go)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        assert not waited, "it waited for a pipe"


def _pipe(name: str, read: Callable[[Path], Any], assets: Assets, folder: Path) -> None:
    os.mkfifo(folder / name)
    with _nobody_waits_for(folder / name):
        refused(lambda: read(folder / name), f"{name}: is no file but a pipe")


def _beside(assets: Assets, folder: Path) -> None:
    (folder / "a.pt").write_bytes(b"x")
    os.mkfifo(folder / "a.pt.sha256")
    with _nobody_waits_for(folder / "a.pt.sha256"):
        refused(lambda: load_checkpoint(folder / "a.pt"), "a.pt.sha256: is no file but a pipe")


def _socket(assets: Assets, folder: Path) -> None:
    before = Path.cwd()
    os.chdir(folder)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("a.jsonl")
            refused(lambda: read_t2i_jsonl(["a.jsonl"]), "a.jsonl: is no file but a socket")
    finally:
        os.chdir(before)


def _folder(name: str, read: Callable[[Path], Any], assets: Assets, folder: Path) -> None:
    (folder / name).mkdir()
    refused(lambda: read(folder / name), f"{name}: is no file but a folder")


def _device(read: Callable[[Path], Any], assets: Assets, folder: Path) -> None:
    refused(lambda: read(Path("/dev/zero")), "/dev/zero: is no file but a device")
