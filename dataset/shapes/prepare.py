"""The work of prepare_shapes.py, whose head explains it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dataset.prepare.drawn_set import DrawnSet
from dataset.prepare.output import log
from dataset.shapes.edits import random_session
from dataset.shapes.flags import PrepareShapesConfig
from dataset.shapes.scenes import render
from dataset.shapes.writers import (
    contact_sheet,
    draw_test_sessions,
    encode_png,
    merge_train_rows,
    write_emu,
    write_magicbrush,
    write_train_chunk,
    write_ultraedit_parquet,
)
from runtime.files import write_atomic
from runtime.pictures import save_picture


def prepare_shapes(config: PrepareShapesConfig) -> None:
    """Writes the whole set, or what an interrupted run left undone.

    Raises:
      UserError: the folder holds something else, or the disk is too small.
    """
    folder = Path(config.output_dir)
    samples = [random_session(i, config.shapes)[0].before for i in range(8)]
    in_parquet = 3 * config.num_train if config.write_parquet else 0
    DrawnSet(
        name="shapes",
        folder=folder,
        identity=config.identity,
        num_train=config.num_train,
        num_files=2 * config.num_train + 3 * config.num_test + config.num_emu + in_parquet,
        file_bytes=max(len(encode_png(render(scene, config.image_size))) for scene in samples),
        write_chunk=partial(_write_chunk, config),
        merge_rows=merge_train_rows,
        write_rest=partial(_write_tests, config),
    ).write(config.num_workers)
    parquet = folder / "train" / "editing.parquet"
    if config.write_parquet and not parquet.exists():
        write_atomic(parquet, lambda path: write_ultraedit_parquet(folder / "train", path, config.image_size))
        log.info("%s written", parquet)


def _write_chunk(config: PrepareShapesConfig, folder: Path, indices: range) -> list[dict]:
    return write_train_chunk(folder, config.shapes, config.seed, indices)


def _write_tests(config: PrepareShapesConfig) -> None:
    folder = Path(config.output_dir)
    sessions = draw_test_sessions(config.shapes, config.seed, config.num_test)
    edits = [example for session in sessions.values() for example in session]
    write_magicbrush(folder / "test", sessions, config.image_size, config.shapes.caption)
    log.info("%s: %d edits in %d sessions", folder / "test", len(edits), len(sessions))
    write_emu(folder / "test_emu", edits[: config.num_emu], config.image_size, config.shapes.caption)
    save_picture(contact_sheet(edits[:18]), folder / "preview.png")
