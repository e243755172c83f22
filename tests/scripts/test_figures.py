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


def test_three_orders_are_drawn(monkeypatch):
    from scripts.figures import idea

    drawn = []
    white = Image.new("RGB", (24, 24), "white")

    def draw(prompts, orders, sampling, progress):
        assert sampling.window == 1
        drawn.append(orders[0].tolist())
        for step in range(1, 10):
            progress(SimpleNamespace(step=step, codes=None, drawn=torch.ones(1, 9, dtype=torch.bool)))

    defaults = Defaults()
    painter = SimpleNamespace(grid=3, decode=lambda codes: [white], draw=draw, defaults=defaults)
    FigureCanvasAgg(idea.orders_figure(painter)).draw()
    raster, spiral, random = drawn
    assert raster == list(range(9)) and spiral[0] == 4 and sorted(spiral) == raster
    assert sorted(random) == raster and random not in (raster, spiral)


@pytest.mark.slow
def test_the_program_draws_with_the_shipped_models(tmp_path):
    run_program("scripts/draw_figures.py", "--output-dir", tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {"edit", "sequence", "orders", "auto_mask"}
