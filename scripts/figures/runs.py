"""The picture of one or several trainings: the work of plot_run.py."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dataset.records.images import load_image
from evaluations.report.curves import Series, read_metrics, smooth
from runtime.errors import UserError
from runtime.files import write_atomic
from runtime.logging import get_logger
from runtime.texts import read_text
from scripts.figures.config import PlotRun

log = get_logger(__name__)
COLUMNS = 3
LEFT_OUT = ("step", "epoch", "seconds_left", "eta_seconds")
FIRST = ("loss", "reward", "kl", "entropy", "grad_norm", "lr", "samples_per_second")


def read_runs(folders: list[str], keys: list[str]) -> dict[str, Series]:
    """The numbers of each run, by a name as short as the folders allow.

    Raises:
      UserError: a folder without a readable metrics.jsonl, or none of the keys in it.
    """
    if len(set(folders)) < len(folders):
        raise UserError("a folder is named twice; name each run once")
    files = {name: Path(name) / "metrics.jsonl" for name in folders}
    for folder, file in files.items():
        if not file.is_file():
            raise UserError(f"{file}: no such file; {folder} is not the --results-dir of a training")
    names = dict(zip(folders, _short(folders), strict=True))
    return {names[folder]: read_metrics(file, keys or _keys_of(file)) for folder, file in files.items()}


def _short(folders: list[str]) -> list[str]:
    """Their last parts, as many as tell them apart."""
    parts = [Path(folder).resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def _keys_of(file: Path) -> list[str]:
    """All names of numbers in the file, the usual ones first."""
    found: dict[str, None] = {}
    for line in read_text(file).splitlines():
        try:
            values = json.loads(line)
            found |= {k: None for k, v in values.items() if isinstance(v, (int, float)) and k not in LEFT_OUT}
        except (ValueError, AttributeError):
            continue  # which line it is, `read_metrics` says
    return [*(key for key in FIRST if key in found), *(key for key in found if key not in FIRST)] or ["loss"]


def draw(runs: Mapping[str, Series], previews: Mapping[str, Path]) -> bytes:
    """PNG: a panel a number with one line a run, faint as logged and strong when smoothed; previews below."""
    keys = list(dict.fromkeys(key for series in runs.values() for key in series))
    rows = -(-len(keys) // COLUMNS)
    pictures = {name: np.asarray(load_image(str(path))) for name, path in previews.items()}
    width = 5 * COLUMNS
    heights = [width * min(p.shape[0] / p.shape[1], 1.2) + 0.4 for p in pictures.values()]
    figure = Figure(figsize=(width, 3.2 * rows + sum(heights)), layout="constrained")
    grid = figure.add_gridspec(rows + len(heights), COLUMNS, height_ratios=[3.2] * rows + heights)
    colors = rcParams["axes.prop_cycle"].by_key()["color"]
    for i, key in enumerate(keys):
        axes = figure.add_subplot(grid[i // COLUMNS, i % COLUMNS])
        for number, (name, series) in enumerate(runs.items()):
            if key in series:
                _line(axes, series[key], name, colors[number % len(colors)])
        axes.set(title=key, xlabel="step")
        axes.grid(alpha=0.3)
        if len(runs) > 1:
            axes.legend(fontsize="small")
    for row, (name, picture) in enumerate(pictures.items(), start=rows):
        axes = figure.add_subplot(grid[row, :])
        axes.imshow(picture)
        axes.set_title(f"{name}: {previews[name].name}")
        axes.axis("off")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _line(axes: Axes, points: list[tuple[int, float]], name: str, color: str) -> None:
    steps, values = zip(*points, strict=True)
    axes.plot(steps, values, color=color, alpha=0.3, linewidth=0.8)
    axes.plot(
        steps, smooth(values), color=color, linewidth=1.5, label=name, marker="." if len(steps) < 3 else ""
    )


def plot(config: PlotRun) -> None:
    """Draws the runs into one PNG."""
    runs = read_runs(config.results_dirs, config.keys)
    previews = {}
    for name, folder in zip(runs, config.results_dirs, strict=True):
        if pictures := sorted((Path(folder) / "previews").glob("*.png")):
            previews[name] = pictures[-1]
    output = Path(config.output or Path(config.results_dirs[0]) / "run.png")
    picture = draw(runs, previews)
    write_atomic(output, lambda temporary: temporary.write_bytes(picture))
    log.info("%s shows %s", output, ", ".join(runs))
