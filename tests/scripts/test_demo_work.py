"""The demo's work, without a page."""

from __future__ import annotations

import gc
import importlib
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from autoregressive.editing.edit_queue import EditQueue
from autoregressive.editing.pictures import GREY, OUTLINE
from autoregressive.editing.pipeline import EditingPipeline
from dataset.shapes.scenes import Scene, SceneObject, render
from dataset.shapes.verifier import verify_scene
from runtime.errors import UserError

SHAPES = ROOT / "pretrained_models" / "shapes"


@pytest.fixture(scope="module")
def work():
    return importlib.import_module("scripts.web_demo.work")


@pytest.fixture(scope="module")
def editor():
    return EditingPipeline.from_pretrained(SHAPES)


@pytest.fixture
def edits(editor):
    with EditQueue(editor) as waiting:
        yield waiting


def strokes(side: int, color: tuple[int, int, int], *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """An RGBA layer with filled boxes (left, top, right, bottom)."""
    layer = np.zeros((side, side, 4), np.uint8)
    for left, top, right, bottom in boxes:
        layer[top:bottom, left:right] = (*color, 128)
    return layer


def test_strokes_become_masks_of_the_images_size(work):
    layer = strokes(512, (230, 0, 120), (0, 0, 8, 3))  # a thin stroke still counts
    mask = work.painted_mask(layer, (64, 64))
    assert mask.shape == (64, 64) and mask.sum() == 1 and mask[0, 0]
    large = work.painted_mask(layer, (1024, 512))
    assert large.shape == (512, 1024) and large[:3, :16].all() and large.sum() == 3 * 16
    for nothing in (None, np.zeros((512, 512, 4), np.uint8)):
        with pytest.raises(UserError, match="paint the region"):
            work.painted_mask(nothing, (64, 64))


def test_orders(work):
    for name in work.ORDERS:
        assert sorted(work.cell_order(name, 4, 1).tolist()) == list(range(16))
    assert work.cell_order("spiral", 4, 0)[:4].sort().values.tolist() == [5, 6, 9, 10]
    first, second = (tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in work.BRUSHES[:2])
    layer = strokes(512, second, (0, 0, 128, 128)) + strokes(512, first, (384, 384, 512, 512))
    assert work.cell_order("painted", 4, 0, layer).tolist() == [15, 0, *range(1, 15)]


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


def test_following_shows_every_cell_and_passes_errors_on(work, editor, edits, tmp_path):
    image = Image.fromarray(np.full((100, 80, 3), 200, np.uint8))
    image.save(tmp_path / "in.png")
    desk = work.Desk.open(edits, tmp_path / "in.png", 8000)
    mask = np.zeros((100, 80), bool)
    mask[:40, :40] = True
    told = desk.propose("red", mask, num_samples=2)
    seen = []
    with pytest.raises(StopIteration) as end:
        while True:
            if (drawing := next(told)) is not None:
                seen.append(drawing)
    samples = end.value.value
    last = seen[-1]
    assert last.step == last.num_steps == samples[0].edit_mask.sum()
    assert torch.equal(last.codes[1], samples[1].codes) and torch.equal(last.drawn, last.to_draw)
    counts = [int(drawing.drawn.sum()) for drawing in seen]  # of both samples
    assert counts == sorted(set(counts))
    alone = editor.edit(image, "red", mask, num_samples=2, crop="auto")
    assert [torch.equal(one.codes, other.codes) for one, other in zip(samples, alone, strict=True)] == [
        True
    ] * 2
    begun = next((drawing for drawing in seen if not torch.equal(drawing.drawn, drawing.to_draw)), None)
    if begun is not None:
        picture = np.asarray(work.show_partly(begun))
        assert (picture == GREY).all(-1).any() and (picture[-1, -1] == 200).all()
    with pytest.raises(UserError, match="has changed while"):
        desk.take_turn("red", image, samples)
    desk.take_turn("red", desk.session.image, samples)
    desk.choose(1)
    assert desk.session.image is samples[1].image and len(desk.session.history) == 1
    saved = Image.open(desk.save(tmp_path))
    assert np.array_equal(np.asarray(saved), np.asarray(desk.session.image)), "bit for bit"
    with pytest.raises(UserError, match="no sample 2"):
        desk.choose(2)
    desk.undo()
    assert np.array_equal(np.asarray(desk.session.image), np.asarray(image)) and desk.samples == []
    with pytest.raises(UserError, match=r"^in.png: 80x100 is above the limit"):
        work.Desk.open(edits, tmp_path / "in.png", 7999)
    with pytest.raises(UserError, match="5 samples of a picture of .* are too many for this page: ask for 4"):
        desk.propose("red", mask, num_samples=5)
    with pytest.raises(UserError, match="mask"):
        list(desk.propose("red", mask[:5]))


def test_what_was_downloaded_goes_with_the_desk(work, edits, tmp_path):
    desk = work.Desk.open(edits, Image.new("RGB", (72, 72), "white"), 8000)
    path = desk.save(tmp_path)
    assert path.is_file() and path == desk.save(tmp_path)
    samples = list_all(desk.propose("a red circle", None, num_samples=2))
    desk.take_turn("a red circle", desk.session.image, samples)
    desk.choose(1)
    assert torch.equal(desk.session.codes, samples[1].codes), "of the model's size: codes are kept"
    del samples
    del desk
    gc.collect()
    assert not any(tmp_path.iterdir())


def test_who_leaves_ends_what_is_drawn_and_what_waits(work, edits):
    """Also an edit that waits for its turn, and one of which nothing was told yet."""
    held = threading.Event()
    entered = threading.Event()
    plain, edit = edits.pipeline.edit, edits.pipeline.edit

    def slow(*inputs, progress, **options):
        def told(drawing):
            entered.set()
            progress(drawing)
            held.wait(20)
            progress(drawing)  # raises once its visitor has left
            finished.append(inputs)

        return edit(*inputs, progress=told, **options)

    finished = []
    edits.pipeline.edit = slow
    try:
        desk = work.Desk.open(edits, Image.new("RGB", (72, 72), "white"), 8000)
        running = desk.propose("red", None)
        assert next(running) is None or entered.is_set()
        assert entered.wait(20)
        running.close()
        held.set()
        for _ in range(200):
            if edits.num_open == 0:
                break
            time.sleep(0.05)
        assert edits.num_open == 0 and not finished
    finally:
        edits.pipeline.edit = plain
    assert len(list_all(desk.propose("red", "auto"))) == 1  # and the desk goes on


def list_all(work):
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def test_an_edit_that_ends_ends_no_other_of_its_desk(work, edits):
    """As when an example is drawn and another edit of its picture is asked for meanwhile."""
    second_began, first_done, results = threading.Event(), threading.Event(), []
    plain, edit = edits.pipeline.edit, edits.pipeline.edit

    def held(*inputs, seeds, progress, **options):
        def told(drawing):
            progress(drawing)
            if seeds == 2:
                second_began.set()
            assert (first_done if seeds == 2 else second_began).wait(60)

        return edit(*inputs, seeds=seeds, progress=told, **options)

    edits.pipeline.edit = held
    try:
        desk = work.Desk.open(edits, Image.new("RGB", (72, 72), "white"), 8000)
        first = desk.propose("red", None, seed=1)
        next(first)
        second = threading.Thread(target=lambda: results.append(list_all(desk.propose("red", None, seed=2))))
        second.start()
        assert len(list_all(first)) == 1
        first_done.set()
        second.join(60)
    finally:
        edits.pipeline.edit = plain
    assert len(results) == 1 and len(results[0]) == 1


def test_visitors_share_the_model_and_each_gets_their_own(work, editor, edits):
    scenes = [Image.new("RGB", (72, 72), color) for color in ("white", "beige", "gray", "pink")]
    desks = [work.Desk.open(edits, scene, 8000) for scene in scenes]
    words = "add a small red star at the center"
    alone = [editor.edit(scene, words, "auto", seeds=i)[0].codes for i, scene in enumerate(scenes)]
    results = {}
    threads = [
        threading.Thread(
            target=lambda i, desk: results.update({i: list_all(desk.propose(words, "auto", seed=i))}),
            args=one,
        )
        for one in enumerate(desks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(torch.equal(results[i][0].codes, codes) for i, codes in enumerate(alone))


def test_what_is_told_of_a_model_is_what_its_folder_says(editor):
    from autoregressive.editing.model_folders import About
    from scripts.web_demo import advice

    told = " ".join(advice.about_model("shapes", editor))
    assert "coloured shapes" in told and f"{len(advice.vocabulary(editor))} words: a, add, at," in told
    assert advice.on_words(editor, "make the furry cat red, quickly") == [
        "The model does not know “furry”, “cat”, “quickly”: it is told nothing there, and will guess."
    ]
    assert advice.on_words(editor, "turn the large Red circle into a star!") == []
    assert "“🐱”" in advice.on_words(editor, "🐱 red.")[0] and "“!!!”" in advice.on_words(editor, "!!!")[0]
    assert advice.on_region(0.61, True) and not advice.on_region(0.6, True) and not advice.on_region(1, False)
    about, editor.about = editor.about, About()
    try:
        assert "seen" not in " ".join(advice.about_model("other", editor))
        assert not advice.is_far(editor, 3) and advice.on_reconstruction(editor, 3).endswith("at 3.0 dB")
    finally:
        editor.about = about


def test_pictures_that_the_tokenizer_cannot_reproduce_are_far(work, edits, editor):
    from scripts.web_demo import advice
    from scripts.web_demo.examples import HARD

    near = work.Desk.open(edits, Image.fromarray(render(HARD.scene, 72)), 8000)
    noise = np.random.default_rng(0).integers(0, 256, (72, 72, 3), dtype=np.uint8)
    far = work.Desk.open(edits, Image.fromarray(noise), 8000)
    seen, back = np.asarray(near.session.image, float), np.asarray(near.reconstruction, float)
    assert near.psnr() == pytest.approx(-10 * np.log10(((seen - back) ** 2).mean() / 255**2))
    assert not advice.on_picture(editor, near.psnr())
    assert "usual is 47 dB" in advice.on_picture(editor, far.psnr())[0]


def test_the_examples_are_done_rightly(editor):
    """By the verifier, with nothing else changed: what the page offers first must not disappoint."""
    from scripts.web_demo.examples import HARD

    circle, star, square = (HARD.scene.at(place) for place in ("top left", "center", "bottom right"))
    wanted = (
        (replace(circle, color="purple"), star, square),
        (circle, replace(star, shape="triangle"), square),
        (circle, star),
        (circle, star, square, SceneObject("diamond", "yellow", "small", "top right")),
        (circle, star, replace(square, size="large")),
    )
    source = Image.fromarray(render(HARD.scene, 72))
    for words, objects in zip(HARD.instructions, wanted, strict=True):
        result = editor.edit(source, words, "auto")[0]
        assert verify_scene(np.asarray(result.image), Scene(objects, HARD.scene.background)).passed, words
        assert np.array_equal(np.asarray(result.image)[~result.region], np.asarray(source)[~result.region])


def test_models_of_shapes_are_shown_with_scenes_that_they_know(editor):
    from scripts.web_demo.advice import vocabulary
    from scripts.web_demo.examples import EASY, HARD, examples_for

    assert examples_for(vocabulary(editor)) is HARD
    assert examples_for(EASY.words()) is EASY and examples_for({"cat"}) is None and examples_for([]) is None


def test_a_folder_brings_its_own_examples(tmp_path):
    from scripts.web_demo.examples import EASY, HARD, examples_for

    folder = tmp_path / "examples"
    folder.mkdir()
    assert examples_for(EASY.words() | HARD.words(), tmp_path) is HARD, "there are none"
    (folder / "1_cat.txt").write_text("add a hat\n\n  remove the tail\n")
    with pytest.raises(UserError, match="1_cat.txt: no picture beside it; put 1_cat.png there"):
        examples_for(HARD.words(), tmp_path)
    Image.new("RGB", (30, 20), "red").save(folder / "1_cat.png")
    Image.new("RGB", (8, 9), "blue").save(folder / "2_dog.webp")
    (folder / "2_dog.txt").write_text("add a hat")
    (folder / "drawings.txt").write_text("a cat\na dog\n")
    own = examples_for(HARD.words(), tmp_path)
    assert [one.words for one in own.tries] == ["add a hat", "remove the tail", "add a hat"]
    assert [one.picture(72).size for one in own.tries] == [(30, 20), (30, 20), (8, 9)]
    assert own.caption == "a cat"
    (folder / "2_dog.webp").write_bytes(b"")
    with pytest.raises(UserError, match="2_dog.webp"):
        examples_for([], tmp_path)


def test_which_models_the_demo_takes(work, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="the demo group is not installed")
    from autoregressive.editing import model_folders
    from runtime.config import parse
    from scripts.web_demo import serve
    from scripts.web_demo.config import Demo

    words = ["--device", "cpu", "--max-lanes", "8", "--model", "shapes", "--model", str(SHAPES)]
    config = parse(Demo, words)
    assert config.model == ["shapes", str(SHAPES)] == parse(Demo, ["--model", *config.model]).model
    monkeypatch.setattr(model_folders, "PRETRAINED", tmp_path)
    with pytest.raises(UserError, match="has no folder of models: give --model"):
        serve.make_studios(parse(Demo, []))
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text('{"model_type": "t5"}')
    for name in ("animals", "shapes"):
        (tmp_path / name).symlink_to(SHAPES)
    assert list(model_folders.at_hand()) == ["shapes", "animals"]
    studios = serve.make_studios(parse(Demo, words[:4]))
    assert [studio.name for studio in studios] == ["shapes", "animals"]
    assert studios[0].editor.max_lanes == 8 and studios[1].painter.max_lanes == 8 and studios[1].of_shapes
    for studio in studios:
        studio.editor.close()
        studio.painter.close()


def test_what_comes_from_a_browser_is_not_trusted():
    pytest.importorskip("gradio", reason="the demo group is not installed")
    from scripts.web_demo.widgets import as_url, canvas_value, notices, painted_layer, strip_value

    stroke = strokes(40, (230, 0, 120), (0, 0, 8, 8))
    url = as_url(Image.fromarray(stroke))
    assert np.array_equal(painted_layer({"layer": url}), stroke)
    assert painted_layer({"layer": ""}) is None and painted_layer(None) is None
    assert painted_layer(canvas_value(Image.new("RGB", (72, 72)), 9, "")) is None, "nothing is painted yet"
    huge = as_url(Image.new("1", (2000, 2000)))
    for bad in ("data:image/png;base64,!", "data:text/html,<b>", url.replace("png", "bmp"), huge, 7, ["x"]):
        with pytest.raises(UserError, match="clear it and paint again"):
            painted_layer({"layer": bad})
    said = '<img src=x onerror="alert(1)">'
    for shown in (strip_value("t", [(Image.new("RGB", (8, 8)), said)], 0), notices([said], [said])):
        assert "<img src=x" not in shown and "&lt;img" in shown


def test_a_seed_that_no_draw_takes_is_refused_before_the_order_is_drawn():
    gradio = pytest.importorskip("gradio", reason="the demo group is not installed")
    from autoregressive.decoding.sampling_settings import Sampling
    from scripts.web_demo.widgets import Draws

    with gradio.Blocks():
        draws = Draws.place(Sampling())
    assert draws.read(2**64 - 1, 1, 1, 0)[0] == 2**64 - 1
    with pytest.raises(UserError, match="has more than 64 bits"):
        draws.read(2**64, 1, 1, 0)


def test_pictures_of_a_row_keep_small_pictures_bit_for_bit(work):
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (72, 60, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(work.fit_within(small, 192)), np.asarray(small))
    assert work.fit_within(Image.new("RGB", (4000, 3000)), 192).size == (192, 144)


def test_the_tab_warns_before_the_result_and_keeps_reasons(work, edits):
    gradio = pytest.importorskip("gradio", reason="the demo group is not installed")
    from scripts.web_demo.edit_tab import FIND, PAINT, EditTab, Studio
    from scripts.web_demo.examples import HARD
    from scripts.web_demo.widgets import says

    with gradio.Blocks():
        tab = EditTab(Studio("shapes", edits, None, HARD, 10_000))
        bare = EditTab(Studio("other", edits, None, None, 10_000))
    how = (1, 0, 1, 0.1, 0)
    visit = work.Visit()
    tab.open_first(visit)
    told = list(tab.edit(visit, None, "change the background to mint, please", FIND, *how))
    warned = [number for number, values in enumerate(told) if "region found" in values.get(tab.notice, "")]
    assert warned and warned[0] < len(told) - 1 and warned[-1] == len(told) - 1
    assert "“please”" in told[0][tab.words_note] and visit.at().session.history
    (wrong,) = says(tab.edit, tab.notice)(visit, None, "remove the circle", PAINT, *how)
    assert list(wrong) == [tab.notice] and "paint the region" in wrong[tab.notice]
    (wrong,) = says(tab.edit, tab.notice)(visit, None, "red " * 150, FIND, *how)
    assert "151 tokens, the model reads 120: shorten it" in wrong[tab.notice]
    (wrong,) = says(tab.edit, tab.notice)(work.Visit(), None, "remove the circle", FIND, *how)
    assert "load an image first" in wrong[tab.notice]
    assert "Load an image" in bare.open_first(work.Visit())[bare.story] and not bare.examples


@pytest.mark.parametrize("drawn", ["waiting", "partly"])
def test_a_picture_that_is_opened_while_an_edit_runs_stays(work, edits, drawn):
    """However far the edit is; what it may have painted over is shown again, strokes on the new one stay."""
    gradio = pytest.importorskip("gradio", reason="the demo group is not installed")
    from scripts.web_demo.edit_tab import WHOLE, EditTab, Studio

    with gradio.Blocks():
        tab = EditTab(Studio("shapes", edits, None, None, 20_000_000))
    visit, other = work.Visit(), Image.new("RGB", (90, 80), "pink")
    tab.open_image(visit, Image.new("RGB", (72, 72), "white"))
    before = visit.at()
    running = tab.edit(visit, None, "a red circle", WHOLE, 1, 0, 1, 1.5, 0)
    next(running)
    if drawn != "waiting":
        assert any("of 81 cells" in values[tab.story] for values in running)
    opened = tab.open_image(visit, other)
    told = list(running)
    assert all({tab.canvas, tab.visit, tab.history}.isdisjoint(values) for values in told)
    assert all("of 81 cells" not in values[tab.story] for values in told)
    assert told[-1][tab.story] == opened[tab.story] and told[-1][tab.notice] == opened[tab.notice]
    assert visit.at() is not before and visit.at().session.image.size == (90, 80)
    assert not before.session.history and not visit.at().session.history
    for _ in range(200):
        if edits.num_open == 0:
            break
        time.sleep(0.05)
    assert edits.num_open == 0, "the edit that nobody waits for has ended"


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (10, 20_000)])
def test_pictures_of_odd_sizes_are_shown_and_edited(work, edits, size):
    gradio = pytest.importorskip("gradio", reason="the demo group is not installed")
    from scripts.web_demo.edit_tab import FIND, WHOLE, EditTab, Studio

    with gradio.Blocks():
        tab = EditTab(Studio("shapes", edits, None, None, 20_000_000))
    visit = work.Visit()
    tab.open_image(visit, Image.new("RGB", size, "white"))
    for where in (FIND, WHOLE):
        *_, last = tab.edit(visit, None, "a large red circle", where, 1, 0, 1, 0.1, 0)
        assert "cells edited" in last[tab.story]
    region = np.zeros(size[::-1], bool)
    region[:1, :1] = region[-1:, -1:] = True
    samples = list_all(visit.at().propose("a large red circle", region))
    assert work.show_result(samples[0]).size and samples[0].image.size == size


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16"])
def test_a_photograph_is_edited_at_its_own_resolution(work, editor, edits, tmp_path, mode):
    """As `nep edit` does: the part around the region, and every other pixel is the file's own."""
    draw = np.random.default_rng(0)
    shape = (900, 1200, *{"RGB": (3,), "RGBA": (4,), "I;16": ()}[mode])
    pixels = draw.integers(0, 65536 if mode == "I;16" else 256, shape).astype(
        "u2" if mode == "I;16" else "u1"
    )
    Image.fromarray(pixels).save(tmp_path / "in.png")
    desk = work.Desk.open(edits, tmp_path / "in.png", 2_000_000)
    region = np.zeros((900, 1200), bool)
    region[200:300, 1000:1080] = region[700:720, 30:60] = True
    told, drawings = desk.propose("a red circle", region), []
    with pytest.raises(StopIteration) as end:
        while True:
            drawings.append(next(told))
    (result,) = end.value.value
    (alone,) = editor.edit(Image.open(tmp_path / "in.png"), "a red circle", region, crop="auto")
    after = np.asarray(result.image)
    assert result.image.mode == mode and np.array_equal(after, np.asarray(alone.image))
    assert np.array_equal(after[~result.region], pixels[~result.region])
    assert len(result.crops) == 2 and result.region.sum() < 3 * region.sum()
    share = work.share_to_draw(drawings[-1], result.image.size)
    assert share == pytest.approx(float(result.region.float().mean()))
    shown = work.show_result(result)
    boxes = np.array([crop.box for crop in result.crops])
    (left, top), (right, bottom) = boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist()
    assert shown.size == work.fit_page(Image.new("RGB", (right - left, bottom - top))).size
    assert (np.asarray(shown) == OUTLINE).all(-1).any() and desk.psnr() > 0
    desk.take_turn("a red circle", desk.session.image, [result])
    saved = Image.open(desk.save(tmp_path))
    assert saved.mode == mode and np.array_equal(np.asarray(saved), after)
