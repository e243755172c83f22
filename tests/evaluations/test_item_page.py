"""The page of the worst and best items: which are chosen, what it embeds, what it refuses."""

from __future__ import annotations

import base64
import html
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from evaluations.report.item_page import format_number, rank_items, write_item_page
from runtime.errors import UserError


def make_image(path, size=8, seed=0) -> str:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
    return str(path)


def make_item(folder, number: int, **changes) -> dict:
    source = make_image(folder / "source.png", seed=1)
    return {
        "row": "generated",
        "protocol": "all_turn",
        "session": f"session{number}",
        "turn": 1,
        "instruction": f"edit {number}",
        "caption": "a caption",
        "generated": make_image(folder / f"{number}.png", seed=10 + number),
        "target": make_image(folder / "target.png", seed=2),
        "source": source,
        "metrics": {"l1": number / 10, "clip-i": number / 10},
    } | changes


def read_cards(path) -> list[dict]:
    """What each card of the page says, from its HTML."""
    text = path.read_text(encoding="utf-8")
    cards = []
    for body in re.findall(r"<article.*?</article>", text, re.DOTALL):
        cards.append({
            "session": re.search(r"session <b>(.*?)</b>", body)[1],
            "protocol": re.search(r'data-protocol="(.*?)"', body)[1],
            "values": json.loads(html.unescape(re.search(r'data-values="(.*?)"', body)[1])),
            "pictures": [int(n) for n in re.findall(r'data-picture="(\d+)"', body)],
            "labels": re.findall(r"<figcaption>(.*?)</figcaption>", body),
            "body": re.sub(r"\s+", " ", body),
        })  # fmt: skip
    return cards


def read_pictures(path) -> list[Image.Image]:
    text = re.search(r'<script id="pictures"[^>]*>(.*?)</script>', path.read_text(encoding="utf-8"))[1]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))) for url in json.loads(text)]


def test_worst_and_best_of_every_metric_are_chosen(tmp_path):
    items = [make_item(tmp_path, number) for number in range(9)]
    for number, item in enumerate(items):
        item["metrics"] = {"l1": number, "dino": (number * 4) % 9, "clip-t_oracle": -number, "none": None}
    write_item_page(tmp_path / "page.html", items, per_end=1)
    # dino is least for item 0 and greatest, 8, for item 2; the oracle, the target's number, chooses nothing.
    assert [card["session"] for card in read_cards(tmp_path / "page.html")] == [
        "session0",
        "session2",
        "session8",
    ]
    write_item_page(tmp_path / "page.html", items, per_end=24)
    assert len(read_cards(tmp_path / "page.html")) == 9


def test_lower_is_better_for_distances_only():
    items = [{"metrics": {"m": value}} for value in (2, None, 3, 1)]
    distances = ("l1", "l2", "lpips", "inside_l1", "outside_lpips", "structure_distance")
    for name in (*distances, "mse_unedit_part", "lpips_unedit_part", "mse_kept", "lpips_kept"):
        assert rank_items([{"metrics": {name: item["metrics"]["m"]}} for item in items], name) == [2, 0, 3]
    likeness = ("clip-i", "dino", "psnr", "inside_ssim", "unchanged_pixel_share", "clip_similarity")
    for name in (*likeness, "psnr_kept", "psnr_unedit_part", "clip_similarity_target_image_edit_part"):
        assert rank_items([{"metrics": {name: item["metrics"]["m"]}} for item in items], name) == [3, 0, 2]


def test_a_card_shows_pictures_numbers_verdict_and_the_copied_source(tmp_path):
    item = make_item(
        tmp_path,
        1,
        verdict={"passed_and_unchanged": False, "passed": True, "others_unchanged": False, "size": None},
    )
    copy = item | {"row": "copy_source", "metrics": {"l1": 0.7531, "clip-i": None}}
    other = item | {"row": "copy_source", "protocol": "final_turn", "metrics": {"l1": 0.9999}}
    write_item_page(tmp_path / "page.html", [copy, item, other])
    (card,) = read_cards(tmp_path / "page.html")
    assert card["labels"] == ["source", "generated", "target"]
    assert card["values"] == item["metrics"]
    for text in ("edit 1", "a caption", "0.1000", "0.7531", "✗ failed: others unchanged", "1 / 1"):
        assert text in card["body"]
    assert "0.9999" not in card["body"]
    shown = [np.asarray(picture) for picture in read_pictures(tmp_path / "page.html")]
    for number, key in zip(card["pictures"], ("source", "generated", "target"), strict=True):
        np.testing.assert_array_equal(shown[number], np.asarray(Image.open(item[key])))


def test_a_target_that_is_the_source_is_shown_once_and_files_are_embedded_once(tmp_path):
    items = [make_item(tmp_path, number, target=str(tmp_path / "source.png")) for number in (1, 2)]
    items.append(items[0] | {"protocol": "final_turn"})
    write_item_page(tmp_path / "page.html", items)
    cards = read_cards(tmp_path / "page.html")
    assert [card["labels"] for card in cards] == [["source", "generated"]] * 3
    assert len(read_pictures(tmp_path / "page.html")) == 3  # the source and two results
    assert 'value="final_turn"' in (tmp_path / "page.html").read_text()


def test_small_images_keep_their_pixels_and_large_ones_shrink(tmp_path):
    item = make_item(tmp_path, 1, generated=make_image(tmp_path / "large.png", 400))
    write_item_page(tmp_path / "page.html", [item])
    source, large, _ = read_pictures(tmp_path / "page.html")
    assert (source.format, source.size, large.format, large.size) == ("PNG", (8, 8), "JPEG", (192, 192))
    body = read_cards(tmp_path / "page.html")[0]["body"]
    assert body.count('class="pixels"') == 2 and body.count('width="192" height="192"') == 3


def test_text_is_escaped_and_nothing_is_fetched(tmp_path):
    bad = "</script><script>alert('\"x')</script>"
    item = make_item(tmp_path, 1, instruction=bad, caption=bad, session=bad, protocol=bad)
    write_item_page(tmp_path / "page.html", [item, item | {"protocol": "all_turn"}])
    text = (tmp_path / "page.html").read_text()
    assert "alert('" not in text and text.count("<script") == 2
    assert not re.findall(r"""(?:src|href)=["']""", text) and "http" not in text


@pytest.mark.parametrize("content", [None, b"no image"])
def test_an_unreadable_image_is_named(tmp_path, content):
    item = make_item(tmp_path, 1, generated=str(tmp_path / "lost.png"))
    if content:
        (tmp_path / "lost.png").write_bytes(content)
    with pytest.raises(UserError, match="lost.png"):
        write_item_page(tmp_path / "page.html", [item])
    assert not (tmp_path / "page.html").exists()


def test_items_without_numbers_give_an_empty_page(tmp_path):
    write_item_page(tmp_path / "page.html", [make_item(tmp_path, 1, metrics={"l1": None})])
    assert read_cards(tmp_path / "page.html") == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.0000"), (0.12345, "0.1235"), (31.25, "31.25"), (4.1e-5, "4.1e-05")],
)
def test_numbers_keep_their_size(value, text):
    assert format_number(value) == text
