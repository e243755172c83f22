"""The work of prepare_captions.py, whose head explains it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dataset.prepare.caption_items import chunked_jobs, folder_jobs, line_of, llava_items, table_items
from dataset.prepare.flags import PrepareCaptionsConfig
from dataset.prepare.jobs import Job, Outcome, Result, Tick, Work, run_jobs
from dataset.prepare.output import claimed, log, write_jsonl, write_lines
from dataset.prepare.tars import extract_shard, tar_jobs
from dataset.records.jsonl import PathRules
from runtime.errors import UserError
from runtime.files import without_mac_metadata


@dataclass(frozen=True)
class Layout:
    """How a data path is read: its jobs and the work on one, the list's folder, what is written beside it."""

    make_jobs: Callable[[], Iterable[Job]]
    work: Work
    folder: Path
    unit: str
    writes: tuple[str, ...] = ()


def prepare_captions(config: PrepareCaptionsConfig) -> Path:
    """Writes the list, or what an earlier run left undone.

    Returns:
      The list.
    Raises:
      UserError: data that cannot be read, a folder made otherwise, too little space, too many bad items.
    """
    layout = find_layout(config)
    listing = layout.folder / f"{config.name}.jsonl"
    # Counted from the list's folder, so that the whole can be moved.
    settings = {"set": "captions", "data_path": os.path.relpath(config.data_path, layout.folder)}
    settings["image_root"] = config.image_root and os.path.relpath(config.image_root, layout.folder)
    settings |= {name: getattr(config, name) for name in ("image_column", "caption_column")}
    with claimed(layout.folder, config.name, settings, (*layout.writes, listing.name)) as records:
        outcome = run_jobs(
            records,
            layout.make_jobs,
            layout.work,
            num_workers=config.num_workers,
            desc="preparing",
            unit=layout.unit,
        )
        count = outcome.settle(records / "bad_items.txt", config.bad_sample_budget)
        num_small = _report_small(outcome, config.min_side, records / "small_images.txt")
        if num_small == count:
            raise UserError(f"all images have a short side below {config.min_side}; lower --min-side")
        write_jsonl(listing, lambda: (line for line in outcome.lines() if _side(line) >= config.min_side))
    log.info("%s: %d captioned images", listing, count - num_small)
    return listing


def find_layout(config: PrepareCaptionsConfig) -> Layout:
    """Tells the layout of the data path from its kind and its suffix."""
    data = Path(os.path.abspath(config.data_path))
    output = None if config.output_dir is None else Path(os.path.abspath(config.output_dir))
    shards = [data] if data.suffix == ".tar" else without_mac_metadata(data.glob("*.tar"))
    if shards:
        if output is None:
            raise UserError(f"{data}: the images of .tar shards are written out; give --output-dir")
        work = partial(extract_shard, folder=output)
        return Layout(partial(tar_jobs, shards), work, output, "B", ("images",))
    root = data if data.is_dir() else Path(os.path.abspath(config.image_root or data.parent))
    folder, rules = output or root, PathRules(root, config.allow_outside_root)

    def make_jobs() -> Iterator[Job]:
        return folder_jobs(rules) if data.is_dir() else chunked_jobs(_file_items(data, config), rules)

    if not root.is_relative_to(folder) or config.allow_outside_root:
        log.info("not all images are below %s: train with --allow-outside-root, or start above them", folder)
    return Layout(make_jobs, partial(_check_items, rules=rules, folder=folder), folder, "image")


def _file_items(data: Path, config: PrepareCaptionsConfig) -> Iterator[Any]:
    suffix = data.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return table_items(data, config.image_column, config.caption_column)
    if suffix == ".json":
        return llava_items(data)
    raise UserError(f"--data-path {data}: give a folder, or a .tar, .csv, .tsv or .json file")


def _check_items(job: Job, tick: Tick, rules: PathRules, folder: Path) -> Result:
    result = Result()
    for item in job.payload:
        try:
            result.lines.append(line_of(item, rules, folder))
        except UserError as error:
            result.problems.append(str(error))
        tick(1)
    return result


def _side(line: dict[str, Any]) -> int:
    return min(line["width"], line["height"])


def _report_small(outcome: Outcome, min_side: int, listing: Path) -> int:
    """Names the images that are left out, and counts them."""

    def names() -> Iterator[str]:
        small = (line for line in outcome.lines() if _side(line) < min_side)
        return (f"{line['image_path']} {line['width']}x{line['height']}" for line in small)

    count = sum(1 for _ in names())
    if count:
        write_lines(listing, names)
        log.warning("%d images have a short side below %d and are left out, see %s", count, min_side, listing)
    else:
        listing.unlink(missing_ok=True)
    return count
