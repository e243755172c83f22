"""Writes the embedded data set of coloured shapes in every format that training and evaluation read.

python dataset/prepare_shapes.py --output-dir data/shapes --num-train 12000 --num-test 500

train/t2i.jsonl                      captioned images (sources and edited images)
train/editing.jsonl                  UltraEdit list of edit pairs; --write-parquet adds editing.parquet
test/                                MagicBrush test set of held-out sessions; shapes.json is for the verifier
test_emu/                            Emu Edit test set, a part of the held-out edits
preview.png                          what it looks like
"""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataset.shapes.edits import EDIT_KINDS, SETTINGS, ShapesConfig, random_session
from dataset.shapes.scenes import render
from dataset.shapes.writers import (
    contact_sheet,
    draw_test_sessions,
    encode_png,
    make_train_folders,
    merge_train_rows,
    write_emu,
    write_magicbrush,
    write_train_chunk,
    write_ultraedit_parquet,
)
from runtime.config import check_ranges, option, parse
from runtime.errors import UserError, run_command
from runtime.files import without_mac_metadata, write_atomic
from runtime.flags.ranges import COUNT, COUNT_OR_NONE, SEED, SIZE, THREADS
from runtime.logging import get_logger, progress
from runtime.pictures import save_picture

_CHUNK = 250
_BLOCK = 4096  # bytes a small file takes on common file systems
_FORMAT_VERSION = 3

log = get_logger("prepare_shapes")


@dataclass(frozen=True)
class PrepareShapesConfig:
    """Writes the embedded data set of coloured shapes."""

    output_dir: str = option(help="folder to write; a finished set of the same settings is left alone")
    num_train: int = option(12000, within=COUNT, help="training pairs")
    num_test: int = option(500, within=COUNT, help="held-out edits (turns of all sessions together)")
    num_emu: int = option(
        100, within=COUNT_OR_NONE, help="held-out edits also written in the Emu Edit format"
    )
    image_size: int = option(72, within=SIZE, help="side of the images in pixels")
    seed: int = option(0, within=SEED, help="another seed gives other scenes; the held-out split stays")
    setting: str = option(
        "easy",
        choices=tuple(SETTINGS),
        help="easy: aligned objects, plain backgrounds, 4 edit kinds; hard: jitter, textures, all 7 kinds",
    )
    edits: list[str] | None = option(
        None,
        choices=EDIT_KINDS,
        help="kinds of edit instead of the setting's; one named twice comes twice as often",
    )
    write_parquet: bool = option(False, help="also write train/editing.parquet")
    num_workers: int = option(2, within=THREADS, help="processes")

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))

    @property
    def shapes(self) -> ShapesConfig:
        config = replace(SETTINGS[self.setting], image_size=self.image_size)
        return config if self.edits is None else replace(config, edits=tuple(self.edits))

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the content of the files."""
        names = ("num_train", "num_test", "num_emu", "image_size", "seed", "setting")
        edits = {} if self.edits is None else {"edits": self.edits}
        return {"format": _FORMAT_VERSION} | {name: getattr(self, name) for name in names} | edits


def _write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda temporary: temporary.write_text(text))


def _write_manifest(config: PrepareShapesConfig, finished: bool) -> None:
    content = {"settings": config.identity, "finished": finished}
    _write_text(Path(config.output_dir) / "shapes_set.json", json.dumps(content, indent=1))


def _is_finished(config: PrepareShapesConfig) -> bool:
    """Looks at what the output folder holds.

    Raises:
      UserError: another set, or files that are not ours.
    """
    folder = Path(config.output_dir)
    path = folder / "shapes_set.json"
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or without_mac_metadata(folder.iterdir())):
            raise UserError(f"{folder} holds other files; give an empty or new folder as --output-dir")
        return False
    try:
        content = json.loads(path.read_text())
        settings, finished = content["settings"], content["finished"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); delete {folder} and run again") from None
    if settings != config.identity:
        wanted = config.identity
        names = [name for name in wanted | settings if settings.get(name) != wanted.get(name)]
        differing = [f"{name}={settings.get(name)} instead of {wanted.get(name)}" for name in names]
        raise UserError(
            f"{folder} holds a set with {', '.join(differing)}; delete it or give another --output-dir"
        )
    return finished


def _check_disk(config: PrepareShapesConfig) -> None:
    """Logs the space needed, judged from a few encoded images; refuses when it is not there."""
    samples = [random_session(i, config.shapes)[0].before for i in range(8)]
    largest = max(len(encode_png(render(scene, config.image_size))) for scene in samples)
    per_file = -(-largest // _BLOCK) * _BLOCK
    num_files = 2 * config.num_train + 3 * config.num_test + config.num_emu
    needed = num_files * per_file + 1000 * config.num_train
    if config.write_parquet:
        needed += 3 * largest * config.num_train
    parent = next(
        p
        for p in (Path(config.output_dir).resolve(), *Path(config.output_dir).resolve().parents)
        if p.exists()
    )
    free = shutil.disk_usage(parent).free
    log.info("about %d files, %.0f MB (free: %.0f MB)", num_files, needed / 1e6, free / 1e6)
    if needed > free:
        raise UserError(
            f"{parent} has {free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB are needed; free some space"
        )


def _write_train(config: PrepareShapesConfig) -> None:
    """Writes chunks in parallel; a chunk's rows are stored once its images are, so a rerun goes on there."""
    folder = Path(config.output_dir) / "train"
    make_train_folders(folder)
    starts = range(0, config.num_train, _CHUNK)
    parts = {start: folder / "parts" / f"{start:08d}.json" for start in starts}
    bar = progress(total=config.num_train, desc="training pairs", unit="pair")
    with bar, ProcessPoolExecutor(config.num_workers) as pool:
        jobs = {}
        for start, part in parts.items():
            indices = range(start, min(start + _CHUNK, config.num_train))
            if part.exists():
                bar.update(len(indices))
            else:
                job = pool.submit(write_train_chunk, folder, config.shapes, config.seed, indices)
                jobs[job] = (part, len(indices))
        try:
            for job in as_completed(jobs):
                part, count = jobs[job]
                _write_text(part, json.dumps(job.result()))
                bar.update(count)
        finally:
            pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, do not write the rest first
    rows = [row for part in parts.values() for row in json.loads(part.read_text())]
    for name, lines in merge_train_rows(rows).items():
        _write_text(folder / name, "".join(json.dumps(line) + "\n" for line in lines))
        log.info("%s: %d lines", folder / name, len(lines))


def prepare_shapes(config: PrepareShapesConfig) -> None:
    """Writes the whole set, or what an interrupted run left undone.

    Raises:
      UserError: the folder holds something else, or the disk is too small.
    """
    folder = Path(config.output_dir)
    if _is_finished(config):
        log.info("%s is finished already with these settings: nothing to write", folder)
    else:
        _check_disk(config)
        _write_manifest(config, finished=False)
        _write_train(config)
        sessions = draw_test_sessions(config.shapes, config.seed, config.num_test)
        edits = [example for session in sessions.values() for example in session]
        write_magicbrush(folder / "test", sessions, config.image_size)
        log.info("%s: %d edits in %d sessions", folder / "test", len(edits), len(sessions))
        write_emu(folder / "test_emu", edits[: config.num_emu], config.image_size)
        save_picture(contact_sheet(edits[:18]), folder / "preview.png")
        _write_manifest(config, finished=True)
        shutil.rmtree(folder / "train" / "parts")
    parquet = folder / "train" / "editing.parquet"
    if config.write_parquet and not parquet.exists():
        write_atomic(parquet, lambda path: write_ultraedit_parquet(folder / "train", path, config.image_size))
        log.info("%s written", parquet)


if __name__ == "__main__":
    run_command(lambda: prepare_shapes(parse(PrepareShapesConfig)))
