"""The results as pictures: the mask-error curve, the curves of test-time scaling, grids of edits."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from autoregressive.scaling.choices import METHODS
from evaluations.report.edit_grid import edit_grid
from scripts.reproduce.numbers import Results, Statistic
from scripts.reproduce.rows import (
    CROWDED,
    MASK_ERROR_MODELS,
    MASK_ERRORS,
    SCALED,
    SCALING_REWARDS,
    data_root,
    scaling_name,
)
from scripts.shapes.quickstart import edit_items

_GRIDS = ("nep", "zero_shot", "auto_mask", "ntp")
_NUM_SHOWN = 8
_COLOURS = ("#1f6fb4", "#b4531f")


def draw_figures(results: Results, root: Path, seed: int, groups: Sequence[str]) -> list[Path]:
    """Draws what was measured into `figures`; pictures of edits are those of one seed.

    Returns:
      The files; `report.CAPTIONS` says what they show and where they stand.
    """
    folder, files = root / "figures", []
    folder.mkdir(parents=True, exist_ok=True)
    if results.mask_error:
        files.append(_mask_error(results, folder / "mask_error.png"))
    if results.scaling:
        files.append(_scaling(results, folder / "scaling.png"))
        for name in results.scaling:
            where, file = root, name
            if name.startswith(CROWDED):
                where, file = data_root(root, CROWDED), name.replace(CROWDED, "draw")
            strips = sorted((where / "scores" / f"seed{seed}" / "scaling" / "strips").glob(f"{file}_*.png"))
            if strips:
                files.append(Path(shutil.copy(strips[0], folder / f"scaling_{name}.png")))
    for row in _GRIDS:
        if row in groups:
            edit_grid(edit_items(root, f"seed{seed}/{row}")[:_NUM_SHOWN], folder / f"edits_{row}.png")
            files.append(folder / f"edits_{row}.png")
    return files


def _mask_error(results: Results, path: Path) -> Path:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for colour, (model, words) in zip(_COLOURS, MASK_ERROR_MODELS.items(), strict=True):
        _line(axes, MASK_ERRORS, results.mask_error[model], colour, f"trained with {words}")
    axes.set_xticks(MASK_ERRORS)
    axes.set(xlabel="mask widened by, in pixels of 72", ylabel="share of edits that are done", ylim=(0, 1.02))
    return _finish(figure, [axes], path)


def _scaling(results: Results, path: Path) -> Path:
    """A row of pictures for each task and reward: reward by round, reward and accuracy by budget."""
    names = [(t, r) for t in SCALED for r in SCALING_REWARDS if scaling_name(t, r) in results.scaling]
    figure = Figure(figsize=(12, 3 * len(names)), layout="constrained")
    grid = figure.subplots(len(names), 3, squeeze=False)
    for (rounds, reward, accuracy), (task, led_by) in zip(grid, names, strict=True):
        methods = results.scaling[scaling_name(task, led_by)]
        scaled = methods["search"]["reward"]
        _line(rounds, range(len(scaled)), scaled, _COLOURS[0], METHODS["search"])
        title = f"{SCALED[task]}, led by {led_by}"
        rounds.set(xlabel="rounds", ylabel=f"reward: {led_by}", title=title)
        rounds.set_xticks(range(len(scaled)))
        for axes, column in ((reward, "reward"), (accuracy, "accuracy")):
            for colour, (method, words) in zip(_COLOURS, METHODS.items(), strict=True):
                budget = [point.mean for point in methods[method]["budget"]]
                _line(axes, budget, methods[method][column], colour, words)
            axes.set_xlabel("tokens that may be drawn, in whole images")
        reward.set(ylabel=f"reward: {led_by}")
        accuracy.set(ylabel="share that the verifier passes", ylim=(None, 1.01))
    return _finish(figure, list(grid.flat), path)


def _line(axes: Axes, x: Sequence[float], points: Sequence[Statistic], colour: str, label: str) -> None:
    """Means over seeds, and the seeds as points."""
    means = [float("nan") if point.mean is None else point.mean for point in points]
    axes.plot(x, means, color=colour, linewidth=1.8, label=label)
    for place, point in zip(x, points, strict=True):
        seeds = [value for value in point.values if value is not None]
        axes.plot([place] * len(seeds), seeds, "o", color=colour, markersize=4, alpha=0.6, markeredgewidth=0)


def _finish(figure: Figure, panels: Sequence[Axes], path: Path) -> Path:
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, title="mean; a point is a seed", title_fontsize=8)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110)
    return path
