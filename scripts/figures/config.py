"""The flags of the programs that draw: plot_run, draw_figures and draw_architecture."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.config import argument, option
from runtime.flags import shared


@dataclass(frozen=True)
class PlotRun:
    """One picture of one or several trainings."""

    results_dirs: list[str] = argument(help="--results-dir of trainings; several are compared")
    output: str | None = option(None, help="where the PNG goes; by default run.png in the first folder")
    keys: list[str] = option([], help="which numbers of metrics.jsonl to draw; all by default")


@dataclass(frozen=True)
class DrawFigures:
    """Draws the figures of docs/idea.md with the shipped models."""

    model: str = option(
        "pretrained_models/shapes", help="folder of save_pretrained with an editor and a painter"
    )
    output_dir: str = shared.output_dir("docs/figures", "where the pictures go")


@dataclass(frozen=True)
class DrawArchitecture:
    """Draws the project's rooms and who imports whom."""

    output: str = option("docs/figures/architecture.png", help="where the picture goes")
