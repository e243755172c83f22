"""The gap as a table and as a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from autoregressive.sequence.order_kinds import ORDER_KINDS
from evaluations.editing.verification import HEADLINE
from runtime.files import write_atomic
from runtime.texts import write_text
from scripts.orders.config import DATA

COLUMNS = (
    *("data", "model", "samples", "order", "num_edits"),
    *(HEADLINE, "passed", "others_unchanged", "cells_fit", "one_offset", "nll", "nll_standard_error"),
)
_COLOURS = dict(
    zip(
        ORDER_KINDS,
        ("#1f6fb4", "#b4531f", "#2a8f4f", "#8a4fb0", "#8c8c8c", "#c9a227", "#b43b6e"),
        strict=True,
    )
)
_STYLES = (":", "--", "-", "-.")
_MARKERS = "osD^"
Row = dict[str, Any]


def write_table(rows: Sequence[Row], path: Path) -> None:
    """One line a model, length and order."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, stream.getvalue())


def draw_gap(rows: Sequence[Row], path: Path) -> None:
    """Accuracy above NLL, a column a kind of data; colours are orders, line styles are model sizes."""
    names = _distinct(rows, "data")
    figure = Figure(figsize=(5.2 * len(names) + 2.2, 7.2), layout="constrained")
    grid = figure.subplots(2, len(names), sharex=True, sharey="row", squeeze=False)
    for (accuracy, nll), name in zip(grid.T, names, strict=True):
        here = [row for row in rows if row["data"] == name]
        _lines(accuracy, here, rows, HEADLINE, lambda row: 1.96 * _binomial_error(row))
        _lines(nll, here, rows, "nll", lambda row: 1.96 * (row["nll_standard_error"] or 0.0))
        accuracy.set(title=DATA[name][1], ylim=(-0.02, 1.02))
        nll.set(xlabel="images seen", xscale="log", yscale="log")
        nll.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        nll.yaxis.set_major_formatter("{x:g}")
        nll.yaxis.set_minor_formatter(NullFormatter())
        ticks = _distinct(rows, "samples")
        nll.set_xticks(ticks, [f"{count / 1000:g} k" for count in ticks], minor=False)
        nll.set_xticks([], minor=True)
    grid[0, 0].set_ylabel("edits done, all else unchanged")
    grid[1, 0].set_ylabel("NLL of a region, nats")
    lines = [Line2D([], [], color=_COLOURS[order], label=order) for order in _distinct(rows, "order")]
    for number, model in enumerate(_distinct(rows, "model")):
        style = {"linestyle": _STYLES[number % len(_STYLES)], "marker": _MARKERS[number % len(_MARKERS)]}
        lines.append(Line2D([], [], color="#444444", label=model, markersize=4, **style))
    figure.legend(handles=lines, loc="outside right upper", frameon=False)
    write_atomic(path, lambda temporary: FigureCanvasAgg(figure).print_png(str(temporary)))


def _lines(axes: Axes, here: Sequence[Row], rows: Sequence[Row], number: str, half: Any) -> None:
    for index, model in enumerate(_distinct(rows, "model")):
        for order in _distinct(rows, "order"):
            points = [row for row in here if (row["model"], row["order"]) == (model, order)]
            points.sort(key=lambda row: row["samples"])
            axes.errorbar(
                [row["samples"] for row in points],
                [row[number] for row in points],
                [half(row) for row in points],
                color=_COLOURS[order],
                linestyle=_STYLES[index % len(_STYLES)],
                marker=_MARKERS[index % len(_MARKERS)],
                markersize=4,
                linewidth=1.3,
                elinewidth=0.7,
            )
    axes.grid(alpha=0.3)


def _binomial_error(row: Row) -> float:
    return (row[HEADLINE] * (1 - row[HEADLINE]) / row["num_edits"]) ** 0.5


def _distinct(rows: Sequence[Row], key: str) -> list:
    return list(dict.fromkeys(row[key] for row in rows))
