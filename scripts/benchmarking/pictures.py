"""The results as pictures: ratios, latency, throughput, memory."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scripts.benchmarking.rows import Row, amount

COLOURS = {"fast": "#1f6fb4", "slow": "#b4531f"}
NAMES = {"fast": "project", "slow": "baseline"}
REACHED = {True: "#1f6fb4", False: "#c23b3b", None: "#9aa3ab"}

HEADLINES = {
    "packed loader, time per sample": "load a sample that is packed",
    "edit, memory": "memory of an edit, beside the weights",
    "decode step fp32": "draw a code, fp32",
    "decode step bf16": "draw a code, bf16",
    "edit of 25 %, codes to codes": "edit a quarter of the picture, bf16",
    "training step, stage 2": "training step, fp32",
}
"""Six rows that say most, in words for a talk."""


def draw_pictures(rows: list[Row], curves: dict[str, dict], folder: Path) -> list[Path]:
    """Draws what was measured; returns the files."""
    paths = []
    if any(row.comparison.ratio is not None for row in rows):
        paths.append(_ratios(rows, folder / "ratios.png"))
        if shown := headline_rows(rows):
            paths.append(draw_headline(shown, folder / "headline.png"))
    axes = {
        "latency": ("edited cells, %", "seconds", 1.0),
        "throughput": ("different masks in a batch", "new codes a second", None),
        "memory": ("image size, pixels", "peak above the weights, MB", 1e-6),
    }
    for name, curve in curves.items():
        x_label, y_label, factor = axes[name.split("_")[0]]
        paths.append(_lines(curve, x_label, y_label, factor, folder / f"{name}.png"))
    return paths


def headline_rows(rows: list[Row]) -> list[Row]:
    """Of `HEADLINES` those that were measured beside the baseline, at the size of the decoding step."""
    size = next((row.setting.split(" px")[0] for row in rows if row.what.startswith("decode step")), None)
    return [
        row
        for what in HEADLINES
        for row in rows
        if row.what == what and row.setting.split(" px")[0] == size and row.comparison.ratio is not None
    ]


def draw_headline(rows: list[Row], path: Path) -> Path:
    """A slide: a bar a row, how many times better it is, and both sides' amounts."""
    figure = Figure(figsize=(12.8, 7.2), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows[::-1]):
        compared, ratio = row.comparison, row.comparison.ratio
        axes.barh(place, ratio.median - 1, left=1, color=COLOURS["fast"], height=0.62)
        axes.plot([ratio.low, ratio.high], [place, place], color="black", linewidth=2)
        sides = f"{amount(compared.baseline.median, row.unit)} → {amount(compared.fast.median, row.unit)}"
        end = (max(ratio.high, 1), place)
        axes.annotate(
            f"{ratio.median:.3g} ×", end, (12, 5), textcoords="offset points", fontsize=22, weight="bold"
        )
        axes.annotate(sides, end, (12, -18), textcoords="offset points", fontsize=15, color="#4b5563")
    axes.set_yticks(range(len(rows)), [HEADLINES[row.what] for row in rows[::-1]], fontsize=19)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g} ×")
    axes.set_xlim(1, 4 * max(row.comparison.ratio.high for row in rows))
    axes.tick_params(axis="x", labelsize=14)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    size = rows[0].setting.split(" px")[0]
    axes.set_xlabel(f"times better than the baseline, {size} px, logarithmic", fontsize=15)
    return _save(figure, path)


def _ratios(rows: list[Row], path: Path) -> Path:
    """A bar a row, with its spread and, as a black tick, its target."""
    shown = [row for row in rows if row.comparison.ratio is not None][::-1]
    figure = Figure(figsize=(10, 0.34 * len(shown) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(shown):
        ratio = row.comparison.ratio
        axes.barh(place, ratio.median - 1, left=1, color=REACHED[row.reached], height=0.6)
        axes.plot([ratio.low, ratio.high], [place, place], color="black", linewidth=1)
        if row.target.ratio:
            axes.plot([row.target.ratio] * 2, [place - 0.4, place + 0.4], color="black", linewidth=2.5)
        end = max(ratio.high, row.target.ratio or 0, 1)
        axes.annotate(f"  {ratio.median:.3g}", (end, place), va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [f"{row.what} · {row.setting}" for row in shown], fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.12, y=0.01)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times better than the baseline")
    axes.set_title("thin line: spread · tick: target · blue: reached, red: not, grey: no target", fontsize=8)
    return _save(figure, path)


def _lines(curve: dict, x_label: str, y_label: str, factor: float | None, path: Path) -> Path:
    """A line for each series; a `factor` of None shows one over the value."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes: Axes = figure.add_subplot()
    for label, points in curve["series"].items():
        side, _, quantity = label.partition(", ")
        style = "--" if quantity == "decode" else "-"
        names = {"whole": "whole edit", "decode": "decoding alone"}
        shown = ", ".join(part for part in (NAMES[side], names.get(quantity, quantity)) if part)
        values = {
            key: [1 / p[key] if factor is None else factor * p[key] for p in points]
            for key in ("median", "low", "high")
        }
        axes.plot(curve["x"], values["median"], style, color=COLOURS[side], marker="o", label=shown)
        axes.fill_between(curve["x"], values["low"], values["high"], color=COLOURS[side], alpha=0.15)
    axes.set_ylim(bottom=0)
    axes.set_xticks(curve["x"])
    axes.set(xlabel=x_label, ylabel=y_label, title=curve["setting"])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _save(figure, path)


def _save(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=140)
    return path
