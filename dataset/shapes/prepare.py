"""The work of prepare_shapes.py, whose head explains it."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from dataset.shapes.edits import random_session
from dataset.shapes.flags import PrepareShapesConfig
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
from runtime.errors import UserError
from runtime.files import without_mac_metadata, write_atomic
from runtime.logging import get_logger, progress
from runtime.pictures import save_picture

_CHUNK = 250
_BLOCK = 4096  # bytes a small file takes on common file systems

log = get_logger("prepare_shapes")


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
        write_magicbrush(folder / "test", sessions, config.image_size, config.shapes.caption)
        log.info("%s: %d edits in %d sessions", folder / "test", len(edits), len(sessions))
        write_emu(folder / "test_emu", edits[: config.num_emu], config.image_size, config.shapes.caption)
        save_picture(contact_sheet(edits[:18]), folder / "preview.png")
        _write_manifest(config, finished=True)
        shutil.rmtree(folder / "train" / "parts")
    parquet = folder / "train" / "editing.parquet"
    if config.write_parquet and not parquet.exists():
        write_atomic(parquet, lambda path: write_ultraedit_parquet(folder / "train", path, config.image_size))
        log.info("%s written", parquet)
