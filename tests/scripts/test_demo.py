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
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from dataset.shapes.scenes import Background, Scene, SceneObject, render

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NEEDED = os.environ.get("REQUIRE_BROWSER") == "1"  # scripts/test_demo.sh
SCENE = Scene(
    (
        SceneObject("circle", "red", "large", "top left", 1 / 6, -1 / 6),
        SceneObject("star", "blue", "large", "center", -1 / 6, 1 / 6),
    ),
    Background("beige", "speckled", seed=3),
)
TIMEOUT_MS = 60_000  # that a page may take on a busy machine


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
        for _ in range(600):
            if found := re.search(r"open http://[\w.]+(:\d+)", log.read_text()):
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1{found.group(1)}"
        assert server.poll() is None, log.read_text()
        # gradio and its server log errors of their own, as when a client that was turned away hangs up.
        assert not re.search(r'File "[^"]*(scripts/demo|autoregressive/)', log.read_text()), log.read_text()
    finally:
        server.terminate()
        server.wait(30)
    assert not list(tmp_path.glob("demo_*")), "the demo has left files behind"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    yield from start(tmp_path_factory.mktemp("demo"))


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


def upload(page, path: Path) -> None:
    page.set_input_files("#upload input, input[type=file]", str(path))


def wait_for_words(page, words: str, element: str = "#story") -> str:
    page.wait_for_function(
        "([element, words]) => document.querySelector(element)?.innerText.includes(words)",
        arg=[element, words],
    )
    return page.inner_text(element)


def pictures(page, gallery: str, count: int) -> list[np.ndarray]:
    page.wait_for_function(
        "([gallery, count]) => document.querySelectorAll(gallery + ' img').length == count",
        arg=[gallery, count],
    )
    found = []
    for image in page.query_selector_all(f"{gallery} img"):
        with urllib.request.urlopen(image.get_attribute("src")) as answer:
            found.append(np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB")))
    return found


def brush(page, left: float, top: float, right: float, bottom: float) -> None:
    """Strokes through a box of the picture, in shares of its side."""
    page.wait_for_timeout(1500)  # until the canvas has its size
    box = page.query_selector("#canvas canvas").bounding_box()
    zoom = int(re.search(r"(\d+)%", page.inner_text("#canvas")).group(1)) / 100
    side = 576 * zoom
    x, y = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    rows = np.linspace(top, bottom, 6)
    page.mouse.move(x + left * side, y + top * side)
    page.mouse.down()
    for i, row in enumerate(rows):
        for column in (left, right) if i % 2 == 0 else (right, left):
            page.mouse.move(x + column * side, y + row * side, steps=4)
    page.mouse.up()
    page.wait_for_timeout(300)


def say(page, words: str, element: str = "#prompt") -> None:
    page.fill(f"{element} textarea, {element} input", words)


def screenshot(page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_paint_a_region_and_edit_it(page, scene):
    upload(page, scene)
    assert "72 × 72 pixels, 9 × 9 cells" in wait_for_words(page, "pixels")
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
    assert len(pictures(page, "#samples", 1)) == 1

    page.click("#undo")
    wait_for_words(page, "taken back")
    (left,) = pictures(page, "#history", 1)
    assert np.array_equal(left, before)
    page.click("#undo")
    page.wait_for_selector("text=nothing to undo")


def test_the_model_finds_the_region_and_draws_several(page, scene):
    upload(page, scene)
    wait_for_words(page, "pixels")
    page.check("#auto input")
    say(page, "remove the large blue star")
    page.fill("#count input[type=number]", "3")
    page.press("#prompt textarea, #prompt input", "Enter")
    wait_for_words(page, "cells edited")
    samples = pictures(page, "#samples", 3)
    start, now = pictures(page, "#history", 2)
    assert np.array_equal(now, samples[0])
    star = start[38:42, 30:34].astype(int).mean((0, 1))
    assert np.abs(now[38:42, 30:34].astype(int).mean((0, 1)) - star).max() > 40, "the star should be gone"
    page.click("#samples button:has(img) >> nth=2")
    wait_for_words(page, "Sample 2 taken")
    assert np.array_equal(pictures(page, "#history", 2)[1], samples[2])
    screenshot(page, "samples")


def test_mistakes_are_told_and_the_page_lives_on(page, scene, tmp_path):
    say(page, "x")
    page.click("#edit")
    page.wait_for_selector("text=load an image first")
    (tmp_path / "words.png").write_text("this is no image")
    upload(page, tmp_path / "words.png")
    page.wait_for_selector("text=words.png: not an image")
    Image.new("L", (8000, 5000)).save(tmp_path / "large.png")
    upload(page, tmp_path / "large.png")
    page.wait_for_selector("text=above the limit of 16 megapixels")
    upload(page, scene)
    wait_for_words(page, "pixels")
    page.click("#edit")
    page.wait_for_selector("text=paint the region to edit")
    screenshot(page, "mistakes")
    brush(page, 0.1, 0.1, 0.2, 0.2)
    say(page, "   ")
    page.click("#edit")
    page.wait_for_selector("text=the text is empty")
    say(page, "remove the large red circle")
    page.click("#edit")
    wait_for_words(page, "cells edited")


def test_draw_spend_more_and_edit_what_was_drawn(page):
    page.click("button[role=tab]:has-text('Draw')")
    page.click("#order label:has-text('spiral')")
    say(page, SCENE.caption(), "#draw_prompt")
    page.click("#draw")
    page.wait_for_selector("#drawn img")
    page.wait_for_timeout(3000)
    screenshot(page, "drawn")
    page.click("#send")
    page.wait_for_selector("#canvas canvas:visible")
    assert "72 × 72" in wait_for_words(page, "pixels")
    page.click("button[role=tab]:has-text('Spend more')")
    say(page, SCENE.caption(), "#spend_prompt")
    page.click("#spend")
    wait_for_words(page, "at the end", "#spend_story")
    page.wait_for_selector("#strip img")
    screenshot(page, "spent")


def one_visitor(address: str, scene: Path) -> str:
    """Opens an image and edits it; what came of it in words."""
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError
    from gradio_client.utils import QueueError

    client = Client(address, verbose=False, download_files=False)
    try:
        client.predict(handle_file(scene), api_name="/open")
        *_, story, _, _ = client.predict(
            None, "make the large red circle green", True, 1, 0, 1, 0.1, 0, api_name="/edit"
        )
        return story
    except (AppError, QueueError) as error:
        return str(error)


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
        with ThreadPoolExecutor(12) as visitors:
            told = list(visitors.map(lambda _: one_visitor(address, scene), range(12)))
        turned_away = [words for words in told if "queue" in words.lower()]
        assert turned_away and all("cells edited" in words for words in told if words not in turned_away), (
            told
        )
        assert "cells edited" in one_visitor(address, scene)  # and serves the next one
