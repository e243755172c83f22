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
from runtime.texts import read_lines
from scripts.figures.config import PlotRun

log = get_logger(__name__)
COLUMNS = 3
LEFT_OUT = ("step", "epoch", "seconds_left", "eta_seconds")
FIRST = ("loss", "reward", "kl", "entropy", "grad_norm", "lr", "samples_per_second")
MEANINGS = {
    "loss": ("loss", "nats a code; of a tokenizer: no unit"),
    "grad_norm": ("norm of the gradient, before clipping", "no unit"),
    "lr": ("learning rate", "a step"),
    "samples_per_second": ("throughput", "samples a second"),
    "useful_tflops": ("arithmetic that the batches need", "TFLOP/s, each device"),
    "mfu": ("the same as a share of the device's peak", "share, 0 to 1"),
    "psnr": ("fidelity of reconstructions", "PSNR, dB"),
    "reconstruction": ("reconstruction loss", "absolute difference, of 2"),
    "perceptual": ("perceptual loss", "LPIPS"),
    "codebook": ("codebook loss", "no unit"),
    "commitment": ("commitment loss", "no unit"),
    "entropy": ("entropy: a tokenizer's loss, or of a policy's draws", "nats"),
    "reward": ("weighted sum of the rewards", "mean of the samples"),
    "reward_spread": ("deviation of the rewards in a group", "as the reward"),
    "kl": ("divergence from the start", "nats a code"),
    "clipped": ("codes whose ratio is clipped", "share, 0 to 1"),
    "equal_groups": ("groups whose rewards are all equal", "share, 0 to 1"),
    "failed_groups": ("groups that no reward could judge", "share, 0 to 1"),
    "adversarial": ("adversarial loss of the tokenizer", "no unit"),
    "discriminator": ("loss of the discriminator", "no unit"),
    "codebook_usage": ("codes that were used", "share, 0 to 1"),
    "unchanged_pixel_share": ("pixels outside that are unchanged", "share, 0 to 1"),
    "l1": ("distance to the true result", "L1, of 1"),
    "l2": ("squared distance to the true result", "L2, of 1"),
}
"""Title and unit of what trainings log; what is before a slash, as in "val/loss", goes before the title."""


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
    for line in read_lines(file):
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
        title, unit = words_for(key)
        axes.set(xlabel="optimizer step", ylabel=unit)
        axes.set_title(title, fontsize="medium", loc="left")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    for row, (name, picture) in enumerate(pictures.items(), start=rows):
        axes = figure.add_subplot(grid[row, :])
        axes.imshow(picture)
        step = previews[name].stem.lstrip("0") or "0"
        axes.set_title(f"{name}: drawn at step {step}", fontsize="medium", loc="left")
        axes.axis("off")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def words_for(key: str) -> tuple[str, str]:
    """The title of a logged number's panel, and its unit; the name itself for one that is not known."""
    group, _, name = key.rpartition("/")
    title, unit = MEANINGS.get(name, (name.replace("_", " "), ""))
    return f"{group}: {title}" if group else title, unit


def _line(axes: Axes, points: list[tuple[int, float]], name: str, color: str) -> None:
    """Faint as it was logged; over it, where there is enough of it, its moving average."""
    steps, values = zip(*points, strict=True)
    if len(steps) < 3:
        axes.plot(steps, values, color=color, linestyle="none", marker="o", label=name)
        return
    axes.plot(steps, values, color=color, alpha=0.3, linewidth=0.8)
    axes.plot(steps, smooth(values), color=color, linewidth=1.5, label=f"{name}, moving average")


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
