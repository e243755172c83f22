"""The work of prepare_magicbrush.py, whose head explains it."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from PIL import Image

from dataset.prepare.extraction import Source
from dataset.prepare.flags import PrepareMagicBrushConfig
from dataset.prepare.output import (
    check_disk,
    claimed,
    disk_bytes,
    log,
    remove_leftovers,
    require_budget,
    run_parallel,
    write_jsonl,
    write_lines,
)
from dataset.prepare.pairs import pair_files
from dataset.prepare.pictures import image_cell
from dataset.prepare.tables import Row, export_rows, find_parquet
from dataset.records import masks
from dataset.records.images import load_image
from dataset.records.masks import (
    MAGICBRUSH_SPARE,
    load_edit_region,
    load_magicbrush_mask,
    marked,
    require_shape,
)
from dataset.testsets.magicbrush import (
    SESSIONS_FILE,
    SESSIONS_WITH_FEATURES_FILE,
    Turn,
    feature_name,
    iterate_turns,
    read_sessions,
    sessions_with_features,
)
from runtime.devices import PRECISIONS
from runtime.distributed import Distributed, distributed
from runtime.errors import UserError
from runtime.logging import only_errors, progress
from runtime.pictures import save_picture

NAME = "magicbrush"
FEATURES = "t5"  # folder of the instructions' features
PUBLISHED_SESSIONS = {1: 216, 2: 120, 3: 199}  # number of turns -> sessions of the test set
IMAGES = ("source_img", "target_img")
COLUMNS = (*IMAGES, "mask_img", "instruction", "img_id", "turn_index")


def prepare(config: PrepareMagicBrushConfig) -> None:
    """Prepares what the options ask for, alone or as one of several ranks."""
    with distributed(config.device) as process:
        prepare_magicbrush(config, process)


def prepare_magicbrush(config: PrepareMagicBrushConfig, process: Distributed) -> None:
    """Does what the options ask for; only text features are shared among the ranks.

    Raises:
      UserError: not MagicBrush's files, too little space, too many items that cannot be used.
    """
    if config.hub_parquet is not None:
        if process.is_main:
            prepare_hub(config)
        return
    if process.is_main:
        check_test_folder(config)
    process.barrier()
    if config.t5_path is not None:
        write_features(config, process)


def check_test_folder(config: PrepareMagicBrushConfig) -> None:
    """Counts the sessions, reads every image, and writes the white masks where they are asked for."""
    root = Path(config.magicbrush_path)
    sessions = read_sessions(root, allow_outside_root=config.allow_outside_root)
    turns = list(iterate_turns(sessions))
    counts = Counter(map(len, sessions.values()))
    shown = ", ".join(f"{counts[length]} of {length} turn(s)" for length in sorted(counts))
    log.info("%s: %d sessions (%s), %d edits", root, len(sessions), shown, len(turns))
    if counts != PUBLISHED_SESSIONS:
        log.warning("this is not the published test set: that has 535 sessions (216/120/199), 1053 edits")
    if config.write_white_masks:
        remove_leftovers(root / "images")
        missing = [turn.mask_path for turn in turns if not _white_path(turn).exists()]
        # A region compresses to less than the mask, which holds the picture too.
        check_disk(root, sum(disk_bytes(path.stat().st_size) for path in missing))
    check = partial(_check_turn, write=config.write_white_masks)
    problems: list[str] = []
    with (
        _counting_fallbacks() as fallbacks,
        progress(total=len(turns), desc="reading images", unit="edit") as bar,
        closing(run_parallel(check, turns, config.num_workers, Event())) as results,
    ):
        for found in results:
            problems += found
            bar.update()
    if fallbacks:
        log.warning("%d masks have no transparent pixels; pure black is their region", len(fallbacks))
    listing = root / f"{NAME}_bad_items.txt"
    num_bad = len(problems)
    require_budget(sorted(problems), num_bad, len(turns) - num_bad, config.bad_sample_budget, listing)


def write_features(config: PrepareMagicBrushConfig, process: Distributed) -> None:
    """Writes the features of every instruction, and the session file that names them."""
    # Loading transformers takes seconds, which the other uses of this program need not wait for.
    from language.feature_extraction import extract_sources
    from language.t5 import TRUNCATION_LOG, T5Encoder, resolve_t5

    root = Path(config.magicbrush_path)
    turns = list(iterate_turns(read_sessions(root, allow_outside_root=config.allow_outside_root)))
    encoder = T5Encoder(
        resolve_t5(config.t5_path, config.t5_model_type), process.device, PRECISIONS[config.precision]
    )
    records = [(feature_name(turn), turn.instruction) for turn in turns]
    source = Source(root / SESSIONS_FILE, root / FEATURES, records)
    with only_errors(TRUNCATION_LOG):
        extract_sources([source], encoder, config.precision, config.batch_size, process)
    if not process.is_main:
        return
    sessions = sessions_with_features(root, turns, FEATURES)
    text = json.dumps(sessions, indent=1, ensure_ascii=False)
    write_lines(root / SESSIONS_WITH_FEATURES_FILE, lambda: text.split("\n"))
    log.info("%s names the features of %d instructions", root / SESSIONS_WITH_FEATURES_FILE, len(turns))


def prepare_hub(config: PrepareMagicBrushConfig) -> None:
    """Makes a training set of the hub's files."""
    files = find_parquet(config.hub_parquet, (*IMAGES, "mask_img", "instruction"))
    folder = Path(config.output_dir)
    listing = folder / f"{NAME}.jsonl"
    settings = {"set": NAME, "image_format": config.image_format}
    with (
        claimed(folder, NAME, settings, ("images", "masks", listing.name)) as records,
        _counting_fallbacks() as fallbacks,
    ):
        convert = partial(_convert, image_format=config.image_format)
        outcome = export_rows(records, files, COLUMNS, convert, num_workers=config.num_workers, unit="pair")
        if fallbacks:
            log.warning("%d masks have no transparent pixels; pure black is their region", len(fallbacks))
        count = outcome.settle(records / "bad_items.txt", config.bad_sample_budget)
        write_jsonl(listing, outcome.lines)
    log.info("%s: %d pairs", listing, count)


def _convert(row: Row, image_format: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    region = load_magicbrush_mask(image_cell(row.values["mask_img"], f"{row.origin} mask_img"))
    line, files = pair_files(row, IMAGES, region, image_format)
    line["edit_prompt"] = row.text("instruction")
    return line | {key: row.values[key] for key in ("img_id", "turn_index") if key in row.values}, files


def _check_turn(turn: Turn, write: bool) -> list[str]:
    """What is wrong with a turn's files, at most one message; `write` the white mask if it is not there."""
    try:
        images = [load_image(path) for path in (turn.input_path, turn.output_path)]
        region = load_magicbrush_mask(turn.mask_path)
        if not region.any():
            raise UserError(f"{turn.mask_path}: the mask marks nothing to edit")
        require_shape(region, images[0].size, str(turn.mask_path), MAGICBRUSH_SPARE)
        white = _white_path(turn)
        existing = load_edit_region(white) if white.exists() else None
    except UserError as error:
        return [str(error)]
    if existing is not None and not torch.equal(marked(existing), marked(region)):
        return [f"{white}: shows another region than {turn.mask_path.name}; delete it and run again"]
    if write and existing is None:
        save_picture(Image.fromarray((region.numpy() * 255).astype(np.uint8)), white)
    return []


def _white_path(turn: Turn) -> Path:
    return turn.mask_path.with_name(f"{turn.mask_path.stem}_white.png")


@contextmanager
def _counting_fallbacks() -> Iterator[list[str]]:
    """Collects the masks read without transparency; of thousands of warnings only the first is shown."""
    names: list[str] = []

    def show(record: logging.LogRecord) -> bool:
        if "no transparent pixels" in record.msg:
            names.append(str(record.args[0]))
            return len(names) == 1
        return True

    masks.log.addFilter(show)
    try:
        yield names
    finally:
        masks.log.removeFilter(show)
