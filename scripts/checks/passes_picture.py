"""What cells in parallel cost, as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from runtime.files import write_atomic

_CODES = "codes a pass, mean over edits"
Point = tuple[float, float, float]
"""Codes a pass as mean over edits, the share done, L1."""


def draw_parallel(curves: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Edits done and L1 against codes a pass; a line a case, from one cell a pass to the most in parallel."""
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    done, l1 = figure.subplots(1, 2, sharex=True)
    for number, (name, points) in enumerate(curves.items()):
        for axes, which in ((done, 1), (l1, 2)):
            axes.plot(
                [point[0] for point in points],
                [point[which] for point in points],
                marker="o",
                markersize=4,
                color=colormaps["tab10"](number % 10),
                label=name,
            )
    done.set(ylim=(-0.02, 1.02), xlabel=_CODES, ylabel="edits done, all else unchanged")
    l1.set(xlabel=_CODES, ylabel="L1 to the true result")
    l1.set_ylim(bottom=0)
    figure.legend(
        *done.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize="small"
    )
    write_atomic(path, lambda temporary: FigureCanvasAgg(figure).print_png(str(temporary)))
