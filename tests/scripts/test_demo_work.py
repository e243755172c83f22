"""The demo's work, without a page."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from autoregressive.editing.pictures import GREY
from autoregressive.editing.pipeline import EditingPipeline
from runtime.errors import UserError

SHAPES = ROOT / "pretrained_models" / "shapes"


@pytest.fixture(scope="module")
def work():
    return importlib.import_module("scripts.web_demo.work")


@pytest.fixture(scope="module")
def editor():
    return EditingPipeline.from_pretrained(SHAPES)


def strokes(side: int, color: tuple[int, int, int], *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """An RGBA layer with filled boxes (left, top, right, bottom)."""
    layer = np.zeros((side, side, 4), np.uint8)
    for left, top, right, bottom in boxes:
        layer[top:bottom, left:right] = (*color, 128)
    return layer


def test_strokes_become_masks_of_the_images_size(work):
    layer = strokes(512, (230, 0, 120), (0, 0, 8, 3))  # a thin stroke still counts
    mask = work.painted_mask([layer], (64, 64))
    assert mask.shape == (64, 64) and mask.sum() == 1 and mask[0, 0]
    large = work.painted_mask([layer], (1024, 512))
    assert large.shape == (512, 1024) and large[:3, :16].all() and large.sum() == 3 * 16
    both = work.painted_mask([layer, strokes(512, (0, 0, 0), (504, 504, 512, 512))], (64, 64))
    assert both[0, 0] and both[63, 63]
    for layers in ([], [np.zeros((512, 512, 4), np.uint8)]):
        with pytest.raises(UserError, match="paint the region"):
            work.painted_mask(layers, (64, 64))


def test_orders(work):
    for name in work.ORDERS:
        assert sorted(work.cell_order(name, 4, 1).tolist()) == list(range(16))
    assert work.cell_order("spiral", 4, 0)[:4].sort().values.tolist() == [5, 6, 9, 10]
    first, second = (tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in work.BRUSHES[:2])
    layers = [strokes(512, second, (0, 0, 128, 128)) + strokes(512, first, (384, 384, 512, 512))]
    assert work.cell_order("painted", 4, 0, layers).tolist() == [15, 0, *range(1, 15)]


def test_words_and_sizes(work):
    assert work.check_words("  red ") == "red"
    for words, message in (
        ("  ", "the text is empty"),
        (None, "the text is empty"),
        ("a " * 301, "301 words"),
    ):
        with pytest.raises(UserError, match=message):
            work.check_words(words)
    assert work.fit_page(Image.new("RGB", (72, 72))).size == (576, 576)
    assert work.fit_page(Image.new("RGB", (4000, 2000))).size == (1024, 512)
    assert work.fit_page(Image.new("RGB", (20000, 1))).size == (1024, 1)


def test_following_shows_every_cell_and_passes_errors_on(work, editor, tmp_path):
    image = Image.fromarray(np.full((100, 80, 3), 200, np.uint8))
    image.save(tmp_path / "in.png")
    desk = work.Desk.open(editor, tmp_path / "in.png", 8000)
    mask = np.zeros((100, 80), bool)
    mask[:40, :40] = True
    told = work.follow(lambda progress: desk.session.propose("red", mask, num_samples=2, progress=progress))
    seen = []
    with pytest.raises(StopIteration) as end:
        while True:
            seen.append(next(told))
    samples = end.value.value
    last = seen[-1]
    assert last.step == last.num_steps == samples[0].edit_mask.sum()
    assert torch.equal(last.codes[1], samples[1].codes) and torch.equal(last.drawn, last.to_draw)
    assert len({drawing.step for drawing in seen}) == len(seen)
    begun = (
        next(drawing for drawing in seen if not torch.equal(drawing.drawn, drawing.to_draw))
        if len(seen) > 1
        else None
    )
    if begun is not None:
        picture = np.asarray(work.show_partly(image, editor, begun))
        assert (picture == GREY).all(-1).any() and (picture[-1, -1] == 200).all()
    with pytest.raises(UserError, match="has changed while"):
        desk.take_turn("red", image, samples)
    desk.take_turn("red", desk.session.image, samples)
    desk.choose(1)
    assert torch.equal(desk.session.codes, samples[1].codes) and len(desk.session.history) == 1
    desk.undo()
    assert np.array_equal(np.asarray(desk.session.image), np.asarray(image)) and desk.samples == []
    with pytest.raises(UserError, match=r"^in.png: 80x100 is above the limit"):
        work.Desk.open(editor, tmp_path / "in.png", 7999)
    with pytest.raises(UserError, match="mask"):
        list(work.follow(lambda progress: desk.session.propose("red", mask[:5], progress=progress)))
    assert not work.BUSY.locked()
