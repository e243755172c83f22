"""The figures of docs/idea.md, of tiny models: every one is drawn, in the orders that it names."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from conftest import run_program
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from autoregressive.editing.model_folders import Defaults


def test_sequences_are_drawn():
    from scripts.figures.idea import sequence_figure

    FigureCanvasAgg(sequence_figure()).draw()


def test_three_orders_show_their_first_draw_that_is_right(monkeypatch):
    from scripts.figures import idea

    monkeypatch.setattr(
        idea, "verify_scene", lambda picture, scene: SimpleNamespace(passed=picture.mean() < 99)
    )
    white, black = (Image.new("RGB", (24, 24), color) for color in ("white", "black"))
    drawn, shown = [], []

    def draw(prompts, *, seeds, num_samples, orders, sampling, progress):
        assert sampling.window == 1 and len(seeds) == num_samples == len(orders)
        drawn.append(orders.tolist())
        codes, done = (
            torch.arange(num_samples)[:, None].expand(-1, 9),
            torch.ones(num_samples, 9, dtype=torch.bool),
        )
        for step in range(1, 10):
            progress(SimpleNamespace(step=step, codes=codes, drawn=done))
        right = {1: 3, 2: None, 3: 5}[len(drawn)]
        return [black if number in (right, 9) and right else white for number in range(num_samples)]

    def decode(codes):
        shown.append(int(codes[0, 0]))
        return [white]

    painter = SimpleNamespace(grid=3, decode=decode, draw=draw, defaults=Defaults())
    figure = idea.orders_figure(painter)
    FigureCanvasAgg(figure).draw()
    assert shown == [3] * 4 + [0] * 4 + [5] * 4
    titles = [axes.get_title().split("\n")[-1] for axes in figure.axes[::5]]
    assert titles == [f"{count} of {idea.NUM_DRAWS} draws are right" for count in (2, 0, 2)]
    raster, spiral, random = (orders[0] for orders in drawn)
    assert raster == list(range(9)) and spiral[0] == 4 and sorted(spiral) == raster
    assert sorted(random) == raster and random not in (raster, spiral)


@pytest.mark.slow
def test_the_program_draws_with_the_shipped_models(tmp_path):
    run_program("scripts/draw_figures.py", "--output-dir", tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {"edit", "sequence", "orders", "auto_mask"}
