"""Training curves as PNG."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from runtime.errors import UserError
from runtime.texts import read_lines

Series = dict[str, list[tuple[int, float]]]

_COLUMNS = 3
_SMOOTHING_SPANS = 40
_LIGHT = {"line": ("#2563eb", "#d97706", "#059669", "#9333ea"), "text": "#374151", "grid": "#e5e7eb"}
_DARK = {"line": ("#7aa7ff", "#fbbf24", "#34d399", "#c084fc"), "text": "#cbd5e1", "grid": "#334155"}


def read_metrics(path: str | Path, keys: Sequence[str]) -> Series:
    """Reads some numbers of a metrics.jsonl.

    Returns:
      {key: [(step, value), ...]} in step order, for the keys that occur. Of a step that was logged twice, as
      after a resumed crash, the later line counts; values that are not finite are left out.
    Raises:
      UserError: if the file cannot be read, a line is not a JSON object with a step, or no key occurs.
    """
    path = Path(path)
    lines = read_lines(path)
    values: dict[str, dict[int, float]] = {key: {} for key in keys}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            step = int(record["step"])
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise UserError(f"{path}, line {number}: not a JSON object with a step ({error!r})") from error
        for key in keys:
            value = record.get(key)
            if isinstance(value, (int, float)) and math.isfinite(value):
                values[key][step] = value
    found = {key: sorted(points.items()) for key, points in values.items() if points}
    if not found:
        raise UserError(f"{path}: none of {', '.join(keys)} occurs in it")
    return found


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential moving average over about a fortieth of the curve, without a bias at the start."""
    weight = 1 - min(1.0, _SMOOTHING_SPANS / len(values))
    smoothed, total, norm = [], 0.0, 0.0
    for value in values:
        total = weight * total + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        smoothed.append(total / norm)
    return smoothed


def draw_curves(runs: Mapping[str, Series], dark: bool) -> bytes:
    """Draws one panel per run as PNG: raw values faint behind their moving average, clear background."""
    palette = _DARK if dark else _LIGHT
    columns = min(_COLUMNS, max(len(runs), 1))
    rows = math.ceil(max(len(runs), 1) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.5 * rows), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    for index, (name, series) in enumerate(runs.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.set_title(name, loc="left", fontsize=11, color=palette["text"], fontweight="bold")
        for color, (key, points) in zip(palette["line"] * len(series), series.items(), strict=False):
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=1)
            axes.plot(steps, smooth(values), color=color, linewidth=1.8, label=key)
        axes.set_xlabel("step", fontsize=9, color=palette["text"])
        axes.patch.set_alpha(0)
        axes.grid(color=palette["grid"], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.01)
        axes.tick_params(colors=palette["text"], labelsize=8, length=0)
        axes.spines[:].set_visible(False)
        axes.legend(frameon=False, fontsize=8, labelcolor=palette["text"])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True)
    return buffer.getvalue()
