"""The demo in a real browser, as a visitor uses it; and many visitors at once."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import ROOT
from matplotlib import cbook
from PIL import Image

from dataset.shapes.scenes import Background, Scene, SceneObject, render
from dataset.shapes.verifier import verify_scene
from scripts.web_demo.examples import HARD

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NEEDED = os.environ.get("REQUIRE_BROWSER") == "1"  # scripts/test_demo.sh
SCENE = Scene(
    (
        SceneObject("circle", "red", "large", "top left", 1 / 6, -1 / 6),
        SceneObject("star", "blue", "large", "center", -1 / 6, 1 / 6),
    ),
    Background("beige", "speckled", seed=3),
)
EXAMPLE, INSTRUCTIONS = HARD.scene, HARD.instructions
TIMEOUT_MS = 120_000  # that a page may take on a busy machine


def unless_needed(why: str) -> None:
    if NEEDED:
        pytest.fail(why)
    pytest.skip(f"{why}; scripts/test_demo.sh installs it", allow_module_level=True)


for package in ("gradio", "gradio_client", "playwright"):
    try:
        __import__(package)
    except ModuleNotFoundError:
        unless_needed(f"{package} is not installed")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
if BROWSER is None:
    unless_needed(f"none of {', '.join(BROWSERS)} is installed")


def start(tmp_path: Path, *flags: str) -> Iterator[str]:
    """Runs the demo; gives its address, and ends it."""
    log = tmp_path / "demo.log"
    words = [sys.executable, "scripts/demo.py", "--port", "0", *flags]
    with log.open("w") as file:
        server = subprocess.Popen(
            words, cwd=ROOT, stderr=file, stdout=file, env={**os.environ, "TMPDIR": str(tmp_path)}
        )
    try:
        for _ in range(2000):
            if found := re.search(r"open http://[\w.]+(:\d+)", log.read_text()):
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1{found.group(1)}"
        assert server.poll() is None, log.read_text()
        # gradio and its server log errors of their own, as when a client that was turned away hangs up.
        assert not re.search(r'File "[^"]*(scripts/|autoregressive/)', log.read_text()), log.read_text()
    finally:
        server.terminate()
        server.wait(TIMEOUT_MS / 1000)
    assert not list(tmp_path.glob("demo_*")), "the demo has left files behind"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def address(folder) -> Iterator[str]:
    yield from start(folder)


@pytest.fixture
def server_log(folder) -> Path:
    return folder / "demo.log"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser, address):
    opened = browser.new_page(viewport={"width": 1280, "height": 1500})
    opened.set_default_timeout(TIMEOUT_MS)
    elsewhere: list[str] = []
    opened.on("request", lambda asked: elsewhere.append(asked.url) if "127.0.0.1" not in asked.url else None)
    opened.goto(address)
    opened.wait_for_selector("#scene")
    yield opened
    opened.close()
    assert not [url for url in elsewhere if not url.startswith(("data:", "blob:"))]


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    Image.fromarray(render(SCENE, 72)).save(path)
    return path


FIND, PAINT, WHOLE = "Find the region from the words", "Where I paint", "The whole image"


def upload(page, path: Path) -> None:
    page.set_input_files("#upload input, input[type=file]", str(path))


def wait_for_words(page, words: str, element: str = "#story") -> str:
    page.wait_for_function(
        "([element, words]) => document.querySelector(element)?.innerText.includes(words)",
        arg=[element, words],
    )
    return page.inner_text(element)


def pictures(page, row: str, count: int) -> list[np.ndarray]:
    page.wait_for_function(
        "([row, count]) => document.querySelectorAll(row + ' img').length == count", arg=[row, count]
    )
    return [picture_of(image.get_attribute("src")) for image in page.query_selector_all(f"{row} img")]


def picture_of(url: str) -> np.ndarray:
    with urllib.request.urlopen(url) as answer:
        return np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB"))


def download(page) -> np.ndarray:
    with page.expect_download() as started:
        page.click("#save")
    assert started.value.suggested_filename == "edited.png"
    return np.asarray(Image.open(started.value.path()))


def brush(page, left: float, top: float, right: float, bottom: float) -> None:
    """Strokes through a box of the picture, in shares of its sides."""
    page.wait_for_selector("#canvas .ready canvas")
    page.locator("#canvas canvas").scroll_into_view_if_needed()
    box = page.query_selector("#canvas canvas").bounding_box()
    rows = np.linspace(top, bottom, 6)
    page.mouse.move(box["x"] + left * box["width"], box["y"] + top * box["height"])
    page.mouse.down()
    for i, row in enumerate(rows):
        for column in (left, right) if i % 2 == 0 else (right, left):
            page.mouse.move(box["x"] + column * box["width"], box["y"] + row * box["height"], steps=4)
    page.mouse.up()
    page.wait_for_function("document.querySelector('#where input:checked')?.value == " + repr(PAINT))


def is_painted(page) -> bool:
    return page.evaluate(
        "(() => { const c = document.querySelector('#canvas canvas'); return c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data.some((v, i) => i % 4 == 3 && v > 0) })()"
    )


def where(page, way: str) -> None:
    page.check(f"#where input[value='{way}']")


def say(page, words: str, element: str = "#prompt") -> None:
    page.fill(f"{element} textarea, {element} input", words)


def screenshot(page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_it_opens_with_a_scene_and_says_what_it_knows(page):
    page.wait_for_selector("#canvas .ready img")
    wait_for_words(page, "a scene to try things on; the tokenizer reproduces it at")
    assert page.is_checked(f"#where input[value='{FIND}']")
    assert [button.inner_text() for button in page.query_selector_all("#examples button")] == list(
        INSTRUCTIONS
    )
    model = page.inner_text("#model")
    assert "“shapes”" in model and "coloured shapes" in model and "49 words: a, add, at," in model
    assert not page.is_visible("#notice") and not page.is_visible("#samples")
    screenshot(page, "opened")


def test_an_example_is_clicked_and_downloaded(page):
    page.wait_for_selector("#canvas .ready img")
    page.click(f"#examples button:has-text('{INSTRUCTIONS[0]}')")
    told = wait_for_words(page, "cells edited")
    assert told.startswith("4 of 81 cells") and "every pixel outside them is as it was" in told
    start, after = pictures(page, "#history", 2)
    screenshot(page, "example")
    source = render(EXAMPLE, 72)
    assert np.array_equal(start, source) and np.array_equal(download(page), after)
    purple = replace(EXAMPLE.at("top left"), color="purple")
    wanted = replace(EXAMPLE, objects=(purple, *EXAMPLE.objects[1:]))
    assert verify_scene(after, wanted).passed
    cells = (source != after).any(-1).reshape(9, 8, 9, 8).any((1, 3))
    assert 1 <= cells.sum() <= 4, "only cells that were edited may change"
    caption = page.query_selector("#history figure:last-child figcaption")
    assert caption.inner_text() == INSTRUCTIONS[0]
    assert caption.evaluate("(node) => node.scrollWidth <= node.clientWidth"), "captions are not cut"


def test_paint_a_region_and_edit_it(page, scene):
    upload(page, scene)
    wait_for_words(page, "72 × 72 pixels")
    brush(page, 0.06, 0.06, 0.27, 0.27)
    screenshot(page, "painted")
    say(page, "make the large red circle purple")
    page.click("#edit")
    told = wait_for_words(page, "cells edited")
    count = int(re.match(r"(\d+) of 81 cells", told).group(1))
    assert 4 <= count <= 16 and "every pixel outside them is as it was" in told
    before, after = pictures(page, "#history", 2)
    screenshot(page, "edited")
    assert np.array_equal(before, np.asarray(Image.open(scene)))
    changed = (before != after).any(-1)
    cells = changed.reshape(9, 8, 9, 8).any((1, 3))
    assert 3 <= cells.sum() <= count and not cells[4:].any() and not cells[:, 4:].any()
    red, green, blue = after[6:10, 14:18].reshape(-1, 3).mean(0)
    assert blue > 100 and green < 90, "the circle should be purple"

    page.click("#undo")
    wait_for_words(page, "taken back")
    (left,) = pictures(page, "#history", 1)
    assert np.array_equal(left, before) and np.array_equal(download(page), before)
    page.click("#undo")
    wait_for_words(page, "nothing to undo", "#notice")


@pytest.mark.parametrize("then", ["load", "scene", "undo"])
def test_what_follows_painting_does_not_freeze(page, scene, tmp_path, then):
    page.wait_for_selector("#canvas .ready img")
    if then == "undo":
        page.click(f"#examples button:has-text('{INSTRUCTIONS[2]}')")
        wait_for_words(page, "cells edited")
    shown = page.get_attribute("#canvas img", "src")
    brush(page, 0.4, 0.4, 0.6, 0.6)
    assert is_painted(page)
    if then == "load":
        upload(page, scene)
        wait_for_words(page, "72 × 72 pixels")
    else:
        page.click(f"#{then}")
        wait_for_words(page, {"scene": "The scene:", "undo": "taken back"}[then])
    page.wait_for_function("(old) => document.querySelector('#canvas img').src != old", arg=shown)
    assert not is_painted(page), "a new picture has no strokes"
    start = time.monotonic()
    page.screenshot(path=tmp_path / "page.png")  # waits for a frame
    assert time.monotonic() - start < 5, "the page should go on"
    brush(page, 0.1, 0.1, 0.2, 0.2)  # and can be painted on again
    say(page, "remove the large red circle")
    page.click("#edit")
    wait_for_words(page, "cells edited")


def ask_for_samples(page, count: int) -> None:
    """At a person's pace: a number given just after its part of the page opened is lost."""
    page.click("text=How it is drawn")
    page.wait_for_timeout(1000)
    page.fill("#count input[type=number]", str(count))
    page.press("#count input[type=number]", "Tab")
    page.wait_for_timeout(1000)


def begin_long_edit(page):
    """Eight samples of the whole picture, the first cells of which are there."""
    where(page, WHOLE)
    say(page, "make the large red circle purple")
    ask_for_samples(page, 8)
    page.click("#edit")
    wait_for_words(page, "of 81 cells")


def test_a_picture_that_is_opened_while_an_edit_runs_stays(page, scene, tmp_path):
    other = tmp_path / "other.png"
    Image.fromarray(render(EXAMPLE, 72)).crop((0, 0, 72, 60)).save(other)
    upload(page, scene)
    wait_for_words(page, "72 × 72 pixels")
    begin_long_edit(page)
    upload(page, other)
    wait_for_words(page, "72 × 60 pixels")
    brush(page, 0.4, 0.4, 0.6, 0.6)
    page.wait_for_timeout(3000)  # longer than the edit would have taken
    assert "72 × 60 pixels" in page.inner_text("#story") and is_painted(page)
    (only,) = pictures(page, "#history", 1)
    assert np.array_equal(only, np.asarray(Image.open(other))) and np.array_equal(download(page), only)
    page.click(f"#examples button:has-text('{INSTRUCTIONS[0]}')")  # and one that is clicked meanwhile
    page.click(f"#examples button:has-text('{INSTRUCTIONS[2]}')")
    wait_for_words(page, INSTRUCTIONS[2], "#history figure:last-child figcaption")
    page.wait_for_timeout(2000)
    assert page.inner_text("#history figure:last-child figcaption") == INSTRUCTIONS[2]
    assert "cells edited" in page.inner_text("#story") and len(pictures(page, "#history", 2)) == 2


def test_a_photograph_is_edited_at_its_own_resolution(page, tmp_path):
    """Only around the stroke, in a picture that keeps its transparency; the page shows that part."""
    pixels = np.random.default_rng(0).integers(0, 256, (900, 1200, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    upload(page, tmp_path / "large.png")
    wait_for_words(page, "1200 × 900 pixels")
    brush(page, 0.60, 0.60, 0.65, 0.65)
    say(page, "a large red circle")
    page.click("#edit")
    assert "every pixel outside them is as it was" in wait_for_words(page, "cells edited")
    screenshot(page, "photograph_edited")
    with page.expect_download() as started:
        page.click("#save")
    after = np.asarray(Image.open(started.value.path()))
    rows, columns = (after != pixels).any(2).nonzero()
    assert after.shape == pixels.shape and len(rows) > 1000
    assert 420 < rows.min() and rows.max() < 720 and 600 < columns.min() and columns.max() < 900


def test_a_photograph_is_warned_of_before_its_result(page, tmp_path):
    photograph = Path(cbook.get_sample_data("grace_hopper.jpg").name)
    upload(page, photograph)
    told = wait_for_words(page, "not of the kind", "#notice")
    assert re.search(r"at \d+\.\d dB; usual is 47 dB", told)
    page.wait_for_selector("#view img")
    assert "What the model sees of this picture" in page.inner_text("#view")
    screenshot(page, "photograph")
    where(page, WHOLE)
    say(page, "make the large red circle purple")
    page.click("#edit")
    assert "every pixel" not in wait_for_words(page, "81 of 81 cells edited")
    assert "not of the kind" in page.inner_text("#notice"), "the warning stays"


def test_unknown_words_and_large_regions_are_warned_of(page):
    page.wait_for_selector("#canvas .ready img")
    say(page, "make the furry cat blue")
    assert "does not know “furry”, “cat”" in wait_for_words(page, "does not know", "#words_note")
    say(page, "change the background to mint")
    page.wait_for_function("document.querySelector('#words_note').innerText.trim() == ''")
    page.click("#edit")
    told = wait_for_words(page, "The region found is", "#notice")
    assert int(re.search(r"(\d+)%", told).group(1)) > 60
    wait_for_words(page, "cells edited")
    screenshot(page, "large_region")
    page.click("#undo")
    page.wait_for_function("document.querySelector('#notice').innerText.trim() == ''")


def test_a_phone_has_room(browser, address):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    opened = browser.new_page(**phone, device_scale_factor=2)
    opened.set_default_timeout(TIMEOUT_MS)
    opened.goto(address)
    opened.wait_for_selector("#canvas .ready img")
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert opened.evaluate(wide) <= 0, "nothing should stand out at the side"
    screenshot(opened, "phone")
    opened.locator("#canvas .tools").scroll_into_view_if_needed()
    box = opened.query_selector("#canvas canvas").bounding_box()
    assert box["width"] > 300 and box["y"] + box["height"] < 844
    opened.touchscreen.tap(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.8)
    opened.wait_for_function(f"document.querySelector('#where input:checked')?.value == {PAINT!r}")
    say(opened, "remove the small green square")
    opened.tap("#edit")
    wait_for_words(opened, "cells edited")
    assert opened.evaluate(wide) <= 0
    screenshot(opened, "phone_edited")
    opened.close()


def test_the_keyboard_is_enough(page):
    page.wait_for_selector("#canvas .ready img")
    page.focus("#canvas canvas")
    for key in ("ArrowDown", "ArrowRight", "Space"):
        page.keyboard.press(key)
    page.wait_for_function(f"document.querySelector('#where input:checked')?.value == {PAINT!r}")
    screenshot(page, "keyboard")
    seen = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.closest('[id]:not([id^=\"component\"])')?.id ?? ''"))
    assert {"where", "edit", "undo", "save", "prompt"} <= {name for name in seen} | where_of(page), seen
    page.fill("#prompt textarea, #prompt input", "make the large red circle purple")
    page.focus("#edit")
    page.keyboard.press("Enter")
    assert wait_for_words(page, "cells edited").startswith("1 of 81")


def where_of(page) -> set[str]:
    """Groups with a field that the Tab key stops at."""
    script = """[...document.querySelectorAll('#where input, #prompt textarea, #prompt input')]
        .filter((field) => field.tabIndex >= 0).map((field) => field.closest('#where, #prompt').id)"""
    return set(page.evaluate(script))


def test_several_ways_and_the_whole_image(page, scene):
    upload(page, scene)
    wait_for_words(page, "72 × 72 pixels")
    say(page, "remove the large blue star")
    ask_for_samples(page, 3)
    page.press("#prompt textarea, #prompt input", "Enter")
    wait_for_words(page, "cells edited")
    samples = pictures(page, "#samples", 3)
    start, now = pictures(page, "#history", 2)
    assert np.array_equal(now, samples[0])
    star = start[38:42, 30:34].astype(int).mean((0, 1))
    assert np.abs(now[38:42, 30:34].astype(int).mean((0, 1)) - star).max() > 40, "the star should be gone"
    page.click("#samples button >> nth=2")
    wait_for_words(page, "Sample 3 taken")
    assert np.array_equal(pictures(page, "#history", 2)[1], samples[2])
    screenshot(page, "samples")
    where(page, WHOLE)
    page.click("#edit")
    assert "every pixel" not in wait_for_words(page, "81 of 81 cells edited")


def test_mistakes_are_told_until_the_next_action(page, scene, tmp_path):
    page.wait_for_selector("#canvas .ready img")
    (tmp_path / "words.png").write_text("this is no image")
    upload(page, tmp_path / "words.png")
    wait_for_words(page, "words.png: not an image", "#notice")
    page.wait_for_timeout(11_000)  # longer than a message that goes by itself
    assert "not an image" in page.inner_text("#notice")
    screenshot(page, "mistake")
    Image.new("L", (8000, 5000)).save(tmp_path / "large.png")
    upload(page, tmp_path / "large.png")
    wait_for_words(page, "above the limit of 16 megapixels", "#notice")
    upload(page, scene)
    wait_for_words(page, "72 × 72 pixels")
    page.wait_for_function("document.querySelector('#notice').innerText.trim() == ''")
    where(page, PAINT)
    say(page, "remove the large red circle")
    page.click("#edit")
    wait_for_words(page, "paint the region to edit", "#notice")
    brush(page, 0.1, 0.1, 0.2, 0.2)
    say(page, "   ")
    page.click("#edit")
    wait_for_words(page, "the text is empty", "#notice")
    say(page, "remove the large red circle")
    page.click("#edit")
    wait_for_words(page, "cells edited")


def test_draw_spend_more_and_edit_what_was_drawn(page):
    page.wait_for_selector("#canvas .ready img")
    page.click("button[role=tab]:has-text('Draw')")
    page.click("#order label:has-text('painted')")
    page.wait_for_selector("#order_canvas .ready canvas")
    screenshot(page, "order")
    page.click("#order label:has-text('spiral')")
    page.click("#draw")
    page.wait_for_selector("#drawn img")
    page.wait_for_timeout(3000)
    screenshot(page, "drawn")
    page.click("#send")
    page.wait_for_selector("#canvas canvas:visible")
    wait_for_words(page, "72 × 72 pixels")
    page.click("button[role=tab]:has-text('Spend more')")
    page.click("#spend")
    wait_for_words(page, "at the end", "#spend_story")
    page.wait_for_selector("#strip img")
    screenshot(page, "spent")


def test_who_leaves_ends_the_edit(page, address, server_log):
    page.wait_for_selector("#canvas .ready img")
    begin_long_edit(page)
    page.goto("about:blank")
    for _ in range(100):
        if "has left" in server_log.read_text():
            break
        time.sleep(0.2)
    assert "has left" in server_log.read_text()


def one_visitor(address: str, scene: Path) -> str:
    """Opens an image and edits it; what came of it in words."""
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError
    from gradio_client.utils import QueueError

    client = Client(address, verbose=False, download_files=False, httpx_kwargs={"timeout": TIMEOUT_MS / 1000})
    try:
        client.predict(handle_file(scene), api_name="/open")
        words = "make the large red circle green"
        *_, notice, _, story, _, _ = client.predict(None, words, FIND, 1, 0, 1, 0.1, 0, api_name="/edit")
        return story + notice
    except (AppError, QueueError) as error:
        return str(error)


def test_each_model_has_a_page_with_its_examples_and_words(browser, tmp_path):
    zoo = tmp_path / "our zoo"
    shutil.copytree(ROOT / "pretrained_models" / "shapes", zoo)
    (zoo / "examples").mkdir()
    first = replace(EXAMPLE, background=Background("mint"))
    Image.fromarray(render(first, 72)).save(zoo / "examples" / "1.png")
    (zoo / "examples" / "1.txt").write_text("remove the large blue star\n")
    (zoo / "examples" / "drawings.txt").write_text("a small star at the center\n")
    config = (zoo / "config.json").read_text()
    (zoo / "config.json").write_text(re.sub('"knows": "[^"]*"', '"knows": "our animals"', config))
    with contextlib.contextmanager(start)(tmp_path, "--model", "shapes", "--model", str(zoo)) as address:
        opened = browser.new_page(viewport={"width": 1280, "height": 1500})
        opened.set_default_timeout(TIMEOUT_MS)
        opened.goto(address)
        wait_for_words(opened, "a scene to try things on")
        assert "coloured shapes" in opened.inner_text("#model")
        screenshot(opened, "two_models")
        opened.click("a:has-text('our zoo')")
        wait_for_words(opened, "A picture to try things on")
        assert "our animals" in opened.inner_text("#model") and not opened.is_visible("#scene")
        (button,) = opened.query_selector_all("#examples button")
        assert button.inner_text() == "remove the large blue star"
        button.click()
        wait_for_words(opened, "cells edited")
        begun, after = pictures(opened, "#history", 2)
        assert np.array_equal(begun, render(first, 72))
        wanted = replace(first, objects=(first.objects[0], first.objects[2]))
        assert verify_scene(after, wanted).passed
        opened.click("button[role=tab]:has-text('Draw')")
        assert opened.input_value("#draw_prompt textarea") == "a small star at the center"
        screenshot(opened, "second_model")
        phone = browser.new_page(viewport={"width": 390, "height": 844}, is_mobile=True)
        phone.goto(address)
        wait_for_words(phone, "a scene to try things on")
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert phone.evaluate(wide) <= 0
        screenshot(phone, "phone_two_models")
        opened.close()
        phone.close()


def test_only_this_machine_gets_in(address):
    with pytest.raises(ConnectionRefusedError):  # another of its addresses, so others than loopback too
        socket.create_connection(("127.0.0.2", urlsplit(address).port), 10)


def test_large_uploads_are_refused(page, scene, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(11 << 20))
    upload(page, tmp_path / "large.png")
    page.wait_for_selector("text=maximum allowed size")
    upload(page, scene)
    wait_for_words(page, "pixels")


def test_twenty_visitors_get_answers(address, scene):
    with ThreadPoolExecutor(20) as visitors:
        told = list(visitors.map(lambda _: one_visitor(address, scene), range(20)))
    assert all("cells edited" in words for words in told), told


def test_who_does_not_fit_into_the_queue_is_told(scene, tmp_path):
    with contextlib.contextmanager(start)(tmp_path, "--max-queue", "1") as address:
        with ThreadPoolExecutor(32) as visitors:  # twice as many as are served at a time
            told = list(visitors.map(lambda _: one_visitor(address, scene), range(32)))
        turned_away = [words for words in told if "queue" in words.lower()]
        assert turned_away and all("cells edited" in words for words in told if words not in turned_away), (
            told
        )
        assert "cells edited" in one_visitor(address, scene)  # and serves the next one


def test_a_taken_port_is_told_before_the_models_are_loaded(taken_port, monkeypatch):
    from runtime.errors import UserError
    from scripts.web_demo import serve
    from scripts.web_demo.config import Demo

    monkeypatch.setattr(serve, "make_studios", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UserError, match=f":{taken_port} cannot be opened .*give another --host or --port"):
        serve.serve(Demo(port=taken_port))
