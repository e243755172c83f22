"""What a table takes, by arithmetic: disk, hours, and what is missing; for --dry-run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from autoregressive.models.flops import PEAKS, forward_flops
from runtime.config import parse
from runtime.errors import UserError
from scripts.paper.config import ReproducePaper
from scripts.paper.downloads import Downloads
from scripts.paper.rows import BY_HAND, CANNOT, EDITORS, ROUNDS, ROWS, Row, hub_sources
from scripts.paper.sources import HAND, HUB, missing_places
from scripts.paper.state import why_not
from scripts.paper.steps import KEPT
from scripts.planning.config import PlanRun
from scripts.planning.plan import GB, make_plan, model_config

SAMPLING_SHARE = 0.03
"""Of a GPU's peak, that decoding reaches in batches; a guess, for it waits for memory."""
_TEXT, _MASKED = 30, 0.3  # tokens of a text; share of cells in a region, on average
_EDITS = {"magicbrush": 1571, "emu": 3589, "cost": 21}  # MagicBrush: 1,053 alone, 518 more in sessions
# A picture and its region, its reconstruction where there is one, at the size that they are written in.
_MB_AN_IMAGE = {"magicbrush": 3.0, "emu": 1.0, "drawn": 0.13, "scaled": 0.8, "cost": 0.0}
_CANDIDATES = 4
_ULTRAEDIT, _EPOCHS, _BATCH = 4_000_000, 10, 16  # pairs, of which 131,000 have a region; the published flags


@dataclass(frozen=True)
class Line:
    """A line of the forecast."""

    what: str
    gigabytes: float
    hours: float | None
    note: str


def forecast(config: ReproducePaper) -> list[Line]:
    """Downloads, trainings and samplings of a table, in the order in which they are done."""
    if config.gpu not in PEAKS:
        raise UserError(f"--gpu {config.gpu}: its peak is not known; use one of {', '.join(PEAKS)}")
    rows = [row for row in ROWS[config.table] if why_not(config, row) is None]
    lines = _downloads(config, rows)
    lines += [_training(config, name) for name in _trained(config, rows)]
    seen: set[str] = set()
    for row in rows:
        if row.folder not in seen:
            seen.add(row.folder)
            lines.append(_sampling(config, row))
    return lines


def _downloads(config: ReproducePaper, rows: list[Row]) -> list[Line]:
    downloads, lines = Downloads(config), []
    names = dict.fromkeys(name for row in rows for name in hub_sources(config, row))
    for source in map(HUB.get, names):
        there = downloads.local(source) or downloads.noted(source)
        commit = config.revision(source.repository) or source.revision
        where = f"{source.repository} at {commit or 'the newest commit, noted when it is met'}"
        lines.append(Line(f"download {source.name}", 0 if there else source.gigabytes, 0 if there else None,
                          f"here: {there}" if there else where))  # fmt: skip
    for name in BY_HAND[config.table]:
        if missing := missing_places(config, name):
            note = f"MISSING {missing[0]}; {HAND[name].how}"
            lines.append(Line(f"by hand: {name}", HAND[name].gigabytes, None, note))
    return lines


def _trained(config: ReproducePaper, rows: list[Row]) -> list[str]:
    """The editors that are trained here, those that others start from first."""
    names: dict[str, None] = {}

    def add(name: str) -> None:
        if name in EDITORS and getattr(config, EDITORS[name].field) is None:
            add(EDITORS[name].start)
            names[name] = None

    for row in rows:
        add(row.weights)
    return list(names)


def _plan(config: ReproducePaper, steps: int | None) -> PlanRun:
    """The flags of plan_run.py for a training of stage 2."""
    samples, epochs = (_ULTRAEDIT, _EPOCHS) if steps is None else (steps * _BATCH, 1)
    words = ["--stage", "editing", "--gpt-model", config.gpt_model, "--image-size", str(config.image_size)]
    words += ["--num-samples", str(samples), "--epochs", str(epochs), "--global-batch-size", str(_BATCH)]
    # Nearly all pairs of UltraEdit have no region: all cells are predicted.
    words += [
        "--max-checkpoints",
        str(KEPT),
        "--edited-share",
        "0.97",
        "--num-gpus",
        str(config.num_ranks),
        "--gpu",
        config.gpu,
    ]
    return parse(PlanRun, words)


def _training(config: ReproducePaper, name: str) -> Line:
    settings = _plan(config, EDITORS[name].steps)
    plan = make_plan(settings)
    return Line(
        f"train {name}",
        KEPT * plan.checkpoint / GB,
        plan.hours,
        f"computed: {plan.steps} steps of {_BATCH} at {settings.utilisation:.0%} of the peak of "
        f"{config.num_ranks} x {config.gpu}; {KEPT} checkpoints",
    )


def _sampling(config: ReproducePaper, row: Row) -> Line:
    """A forward pass over all slots of each picture, twice for guidance."""
    model = model_config(_plan(config, 1))
    cells = model.block_size
    if row.work in _EDITS:
        count = _EDITS[row.work]
        drawn = cells * (_MASKED if row.work != "emu" and "--full-mask" not in row.flags else 1)
        # Of an edit source and marks, if the editor has any, come first; zero-shot, the cells that are kept.
        given = cells - drawn
        if row.weights in EDITORS:
            given = cells * (1 + EDITORS[row.weights].marks)
        slots = _TEXT + given + drawn
    else:
        passes = 1 + ROUNDS * _CANDIDATES if row.work == "scaled" else 1
        count, slots, drawn = config.num_prompts * passes, _TEXT + cells, cells
    operations = 2 * count * forward_flops(model, slots, drawn, _TEXT)
    hours = operations / (PEAKS[config.gpu] * SAMPLING_SHARE * config.num_ranks) / 3600
    pictures = config.num_prompts if row.work in ("drawn", "scaled") else count
    note = (
        f"computed: {operations:.2g} operations at {SAMPLING_SHARE:.0%} of the peak of {config.num_ranks} x "
    )
    return Line(f"sample {row.folder}", pictures * _MB_AN_IMAGE[row.work] / 1000, hours, note + config.gpu)


def show(config: ReproducePaper, title: str) -> str:
    """The forecast as text."""
    lines = forecast(config)
    config.root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(config.root).free / GB
    text = [title, "", f"{'step':<28}{'GB':>8}{'hours':>10}  how"]
    for line in lines:
        hours = "–" if line.hours is None else f"{line.hours:.2f}"
        text.append(f"{line.what:<28}{line.gigabytes:>8.1f}{hours:>10}  {line.note}")
    total = sum(line.gigabytes for line in lines)
    hours = sum(line.hours or 0 for line in lines)
    text.append(f"{'in all':<28}{total:>8.1f}{hours:>10.2f}  {free:.0f} GB are free at {config.root}; the "
                "hours of downloads and evaluation come on top")  # fmt: skip
    reasons = {method: why for (table, method), why in CANNOT.items() if table == config.table}
    reasons |= {row.method: why for row in ROWS[config.table] if (why := why_not(config, row))}
    text += ["", "cannot be measured:"] * bool(reasons)
    return "\n".join(text + [f"  {method}: {why}" for method, why in reasons.items()])
