"""Codes a pass, by order, temperature, first guesses and window: the work of measure_passes.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.pipeline import EditingPipeline
from dataset.records.images import load_image
from dataset.records.masks import load_magicbrush_mask
from dataset.shapes.edits import EditExample
from dataset.testsets.magicbrush import Turn, read_descriptions
from evaluations.editing.verification import HEADLINE, verify_example
from evaluations.metrics.formulas import l1, to_tensor
from runtime.errors import UserError
from runtime.files import path_sha256
from runtime.logging import progress
from runtime.texts import markdown_table, read_json, write_json, write_text
from scripts.checks.passes_config import MeasurePasses
from scripts.checks.passes_picture import Point, draw_parallel
from scripts.shapes.held_out import read_held_out

COLUMNS = (
    *("case", "edits", "codes", "different", "a pass, mean", "a pass, all", "done", "done at window 1"),
    *("L1", "L1 at window 1", "seconds", "at window 1"),
)


@dataclass(frozen=True)
class Case:
    """What is measured: how edits are made, and from which first guesses."""

    name: str
    model: str
    sampling: dict[str, Any]
    guesses: Sequence[str]
    order: str = "raster"
    everything: bool = False


def cases(names: Sequence[str]) -> Iterator[Case]:
    """The cases of `measure_passes.py`, by their first words."""
    both = "independent", "source"
    if "editor" in names:
        yield Case("editor", "editing", {}, (*both, "last"))
        yield Case("editor, T 1", "editing", {"temperature": 1.0}, both)
        yield Case("editor, guidance 3", "editing", {"cfg_scale": 3.0}, both)
        yield Case("editor, random order", "editing", {}, both, order="random")
        yield Case("editor, spread order", "editing", {}, both, order="spread")
    if "zero_shot" in names:
        yield Case("zero-shot", "t2i", {}, ("independent", "source", "last"))
        yield Case("zero-shot, T 1, top-p .9", "t2i", {"temperature": 1.0, "top_p": 0.9}, ("independent",))
        yield Case("zero-shot, random order", "t2i", {}, both, order="random")
        yield Case("zero-shot, spread order", "t2i", {}, both, order="spread")
    if "regeneration" in names:
        yield Case("all cells anew", "editing", {}, both, everything=True)


@dataclass(frozen=True)
class Edits:
    """A test set: its edits, the captions of their results and their true scenes."""

    turns: Sequence[Turn]
    captions: Sequence[str]
    examples: Sequence[EditExample]


def read_edits(root: Path, num_edits: int) -> Edits:
    """The first edits of a shapes test set."""
    turns, examples = zip(*read_held_out(root)[:num_edits], strict=True)
    captions = read_descriptions(root, "global")
    return Edits(turns, [captions[turn.session_id][turn.output_path.name] for turn in turns], examples)


@dataclass(frozen=True)
class Run:
    """E edits: their (E, N) codes, passes and drawn cells, the share done, mean L1 to the true results, the
    seconds of decoding."""

    codes: Tensor
    num_passes: Tensor
    num_cells: Tensor
    done: float
    l1: float
    seconds: float


def run_edits(pipeline: EditingPipeline, edits: Edits, case: Case, how: Sampling, size: int) -> Run:
    """Makes all edits in batches of `size`; an edit's seed is its number."""
    results, seconds, turns = [], 0.0, edits.turns
    words = edits.captions if case.model == "t2i" else [turn.instruction for turn in turns]
    for start in range(0, len(turns), size):
        batch = turns[start : start + size]
        masks = [None if case.everything else load_magicbrush_mask(turn.mask_path) for turn in batch]
        results += pipeline.edit(
            [load_image(turn.input_path) for turn in batch],
            list(words[start : start + size]),
            masks,
            seeds=list(range(start, start + len(batch))),
            sampling=how,
            order=case.order,
        )
        seconds += results[-1].timings["generate"]
    images = [np.asarray(result.image) for result in results]
    verdicts = [verify_example(image, e) for image, e in zip(images, edits.examples, strict=True)]
    targets = [np.asarray(load_image(turn.output_path)) for turn in turns]
    apart = [l1(to_tensor(a), to_tensor(b)) for a, b in zip(images, targets, strict=True)]
    return Run(
        torch.stack([result.codes for result in results]),
        torch.tensor([result.num_passes for result in results]),
        torch.stack([result.edit_mask for result in results]).sum(1),
        sum(verdict[HEADLINE] for verdict in verdicts) / len(verdicts),
        sum(apart) / len(apart),
        seconds,
    )


def ways(case: Case, config: MeasurePasses) -> Iterator[tuple[str, dict[str, Any]]]:
    """The ways to make a case's edits that are held against a pass a cell, with their names."""
    for window in config.windows:
        for guesses in case.guesses:
            yield f"window {window}, {guesses}", {"window": window, "guesses": guesses}
    for parallel in config.parallels:
        yield f"{parallel} in parallel", {"parallel": parallel}


def measure_passes(config: MeasurePasses) -> None:
    """Makes the edits of every case in all ways and writes the tables; rows that are there already stay."""
    edits = read_edits(Path(config.data_path), config.num_edits)
    first = Edits(*(values[: config.batch_size] for values in (edits.turns, edits.captions, edits.examples)))
    wanted = list(cases(config.cases))
    output = Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    store = output / "passes.json"
    settings = settings_of(config)
    done = read_rows(store, settings)
    rows: dict[str, dict[str, Any]] = {}
    with progress(
        total=sum(1 + len(list(ways(case, config))) for case in wanted), desc="cases", unit="run"
    ) as bar:
        for case in wanted:
            left = dict(ways(case, config))
            for name in list(left):
                if (row := done.get(f"{case.name}; {name}")) is not None:
                    rows[row["case"]] = row
                    del left[name]
                    bar.update()
            traced = config.trace_path is not None and case.name == "editor"
            if left or traced:
                pipeline = EditingPipeline.from_pretrained(config.models, case.model)
                if config.device is not None:
                    pipeline.to(config.device)
                plain = dataclasses.replace(pipeline.defaults.sampling, **case.sampling, window=1)
            if traced:
                write_trace(pipeline, edits, plain, config.windows, Path(config.trace_path))
            if left:
                run_edits(pipeline, first, case, plain, config.batch_size)  # warm
                slow = run_edits(pipeline, edits, case, plain, config.batch_size)
            bar.update()
            for name, how in left.items():
                fast = run_edits(pipeline, edits, case, dataclasses.replace(plain, **how), config.batch_size)
                row = compare(f"{case.name}; {name}", slow, fast)
                rows[row["case"]] = done[row["case"]] = row
                write_json(store, {"settings": settings, "rows": list(done.values())})
                bar.update()
    tables = "\n".join([markdown(list(rows.values())), *overviews(wanted, rows, config)])
    write_text(output / "passes.md", tables)
    if config.parallels:
        draw_parallel(parallel_curves(wanted, rows, config), output / "passes.png")
    print(tables)


def settings_of(config: MeasurePasses) -> dict[str, Any]:
    """What a row depends on besides its case and way."""
    return {
        "columns": list(COLUMNS),
        "data": path_sha256(config.data_path),
        "models": path_sha256(config.models),
        "num_edits": config.num_edits,
        "batch_size": config.batch_size,
        "device": config.device,
        "torch": torch.__version__,
    }


def read_rows(store: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows by name that an earlier run of these settings has written.

    Raises:
      UserError: the file is of other settings.
    """
    if not store.exists():
        return {}
    fix = "choose another --output-dir"
    content = read_json(store, dict, fix)
    found = content.get("settings", {})
    if found != settings:
        other = ", ".join(name for name in settings if found.get(name) != settings[name])
        raise UserError(f"{store} was measured with another {other}: {fix}")
    return {row["case"]: row for row in content["rows"]}


def write_trace(
    pipeline: EditingPipeline, edits: Edits, plain: Sampling, windows: Sequence[int], path: Path
) -> None:
    """Writes {window: codes that each pass behind the prompt's settles, edit by edit} as JSON."""
    trace: dict[int, list[int]] = {}
    for window in windows:
        for number, turn in enumerate(edits.turns):
            settled: list[int] = []
            pipeline.edit(
                load_image(turn.input_path),
                turn.instruction,
                load_magicbrush_mask(turn.mask_path),
                seeds=number,
                sampling=dataclasses.replace(plain, window=window),
                progress=lambda drawing, settled=settled: settled.append(drawing.step),
            )
            trace.setdefault(window, []).extend(np.diff(settled).tolist())
    write_json(path, trace, indent=None)


def compare(name: str, slow: Run, fast: Run) -> dict[str, Any]:
    """A row of the table: `fast` against one cell a pass."""
    cells, passes = fast.num_cells.double(), fast.num_passes.double()
    values = (
        name,
        len(cells),
        int(cells.sum()),
        int((fast.codes != slow.codes).sum()),
        (cells / passes).mean().item(),
        (cells.sum() / passes.sum()).item(),
        fast.done,
        slow.done,
        fast.l1,
        slow.l1,
        fast.seconds,
        slow.seconds,
    )
    return dict(zip(COLUMNS, values, strict=True))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table."""
    shown = [[f"{c:.3g}" if isinstance(c, float) else str(c) for c in row.values()] for row in rows]
    return markdown_table(COLUMNS, shown)


def overviews(
    wanted: Sequence[Case], rows: dict[str, dict[str, Any]], config: MeasurePasses
) -> Iterator[str]:
    """A table for each window, of codes a pass by first guesses, and one of what cells in parallel cost: the
    share done, L1, codes a pass as mean over edits."""
    names = list(dict.fromkeys(name for case in wanted for name in case.guesses))
    for window in config.windows:
        lines = []
        for case in wanted:
            found = [rows.get(f"{case.name}; window {window}, {name}") for name in names]
            shown = [f"{row['a pass, mean']:.2f} / {row['a pass, all']:.2f}" if row else "" for row in found]
            done = next(row["done"] for row in found if row)
            lines.append([case.name, *shown, f"{done:.3f}"])
        yield markdown_table([f"window of {window}, codes a pass, mean / all", *names, "done"], lines)
    if config.parallels:
        lines = [
            [name, *(f"{done:.3f} / {l1:.4f} / {a_pass:.2f}" for a_pass, done, l1 in points)]
            for name, points in parallel_curves(wanted, rows, config).items()
        ]
        heading = "cells in parallel: done / L1 / codes a pass"
        yield markdown_table([heading, "1", *map(str, config.parallels)], lines)


def parallel_curves(
    wanted: Sequence[Case], rows: dict[str, dict[str, Any]], config: MeasurePasses
) -> dict[str, list[Point]]:
    """What each case loses, from a cell a pass to the most in parallel."""
    curves = {}
    for case in wanted:
        found = [rows[f"{case.name}; {number} in parallel"] for number in config.parallels]
        one = (1.0, found[0]["done at window 1"], found[0]["L1 at window 1"])
        curves[case.name] = [one, *((row["a pass, mean"], row["done"], row["L1"]) for row in found)]
    return curves
