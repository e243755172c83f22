from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from evaluations.report.curves import read_metrics, smooth
from evaluations.report.edit_grid import EditItem, edit_grid
from evaluations.report.report import (
    CurveSection,
    EditGridSection,
    ImagePairsSection,
    TableSection,
    TextSection,
    build_report,
)
from runtime.errors import UserError


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


@pytest.fixture
def metrics_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 5 / step}) + "\n" for step in (1, 2, 3)))
    return path


def embedded_images(html: str) -> list[Image.Image]:
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_report_holds_every_section_and_nothing_outside(tmp_path, image, metrics_file):
    Image.fromarray(image).save(tmp_path / "file.png")
    item = EditItem(tmp_path / "file.png", image[..., 0] > 99, "make it red", image, image, passed=True)
    path = tmp_path / "deep" / "report.html"
    sections = [
        TextSection("Words", "first\n\nsecond"),
        TableSection("Numbers", ["mode", "l1"], [["masked", 0.123456], ["copy", None]], marked_rows=[0]),
        CurveSection("Curves", {"stage 1": metrics_file}),
        EditGridSection("Edits", [item, EditItem(image, image, "fails", image, passed=False)]),
        ImagePairsSection("Reconstructions", [(image, image, "41 dB")]),
    ]
    build_report(path, "The title", sections, subtitle="below")
    html = path.read_text()
    wanted = [
        "The title",
        "below",
        "<p>first</p>",
        "0.1235",
        ">–<",
        "make it red",
        "✓ passed",
        "✗ failed",
        "41 dB",
    ]
    for text in [*wanted, *(section.title for section in sections)]:
        assert text in html
    assert not re.findall(r"""(?:src|href|srcset)=["'](?!data:)""", html) and "http" not in html
    images = embedded_images(html)
    assert (
        len(images) == 2 + 4 + 3 + 2
    )  # charts in light and dark, first edit, second edit without target, a pair
    np.testing.assert_array_equal(np.asarray(images[2]), image)


def test_text_is_escaped(tmp_path, image):
    path = tmp_path / "report.html"
    bad = "<script>alert('x')</script>"
    sections = [
        TextSection(bad, bad),
        TableSection("t", [bad], [[bad]], note=bad),
        EditGridSection("e", [EditItem(image, image, bad, image, note=bad)]),
        ImagePairsSection("i", [(image, image, bad)], labels=(bad, bad)),
    ]
    build_report(path, bad, sections, subtitle=bad)
    assert "<script" not in path.read_text()


def test_small_images_grow_by_a_whole_factor_and_large_ones_shrink(tmp_path):
    path = tmp_path / "report.html"
    small, large = np.zeros((72, 72, 3), np.uint8), np.zeros((900, 600, 3), np.uint8)
    build_report(path, "t", [ImagePairsSection("i", [(small, large, "")])])
    html = path.read_text()
    assert re.findall(r'width="(\d+)"', html) == ["144", "128"]
    assert [image.size for image in embedded_images(html)] == [(72, 72), (341, 512)]


def test_metrics_later_line_counts_and_holes_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "loss": 9}\n{"step": 1, "loss": 3}\n{"step": 2, "loss": 4}\n'
                    '{"step": 3, "loss": NaN}\n{"step": 4, "lr": 1}\n')  # fmt: skip
    assert read_metrics(path, ["loss", "other"]) == {"loss": [(1, 3), (2, 4)]}


@pytest.mark.parametrize("line", ["{", '{"loss": 1}', "[1]", "3"])
def test_bad_metrics_line_is_named(metrics_file, line):
    metrics_file.write_text(metrics_file.read_text() + line + "\n")
    with pytest.raises(UserError, match="metrics.jsonl, line 4"):
        read_metrics(metrics_file, ["loss"])


def test_metrics_without_the_key_or_the_file(metrics_file, tmp_path):
    with pytest.raises(UserError, match="none of psnr"):
        read_metrics(metrics_file, ["psnr"])
    with pytest.raises(UserError, match="nothing.jsonl"):
        read_metrics(tmp_path / "nothing.jsonl", ["loss"])


def test_smoothing_keeps_constants_and_short_curves():
    assert smooth([3.0] * 200) == pytest.approx([3.0] * 200)
    assert smooth([1.0, 5.0]) == [1.0, 5.0]
    wave = [1.0, -1.0] * 200
    assert max(abs(value) for value in smooth(wave)[20:]) < 0.3


def test_edit_grid_shows_the_pixels_it_was_given(tmp_path):
    path = tmp_path / "grid.png"
    red, green = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    red[..., 0], green[..., 1] = 255, 255
    mask = np.ones((8, 8), bool)
    items = [EditItem(red, mask, "word " * 100, green, red, passed=k % 2 == 0) for k in range(3)]
    edit_grid(items, path, columns=2, tile=64)
    sheet = np.asarray(Image.open(path)).reshape(-1, 3)
    assert (sheet == (255, 0, 0)).all(axis=1).sum() == 3 * 2 * 64 * 64
    assert (sheet == (0, 255, 0)).all(axis=1).sum() == 3 * 64 * 64
    edit_grid(items[:1], path, columns=2, tile=64)
    one = Image.open(path).width
    edit_grid([EditItem(red, mask, "no target", green)], path, tile=64)
    assert Image.open(path).width < one


def test_missing_image_is_named(tmp_path, image):
    with pytest.raises(UserError, match="lost.png"):
        build_report(tmp_path / "r.html", "t", [ImagePairsSection("i", [(tmp_path / "lost.png", image, "")])])
    assert not (tmp_path / "r.html").exists()
