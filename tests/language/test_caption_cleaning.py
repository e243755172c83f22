"""The cleaning against recorded outputs of the published code."""

from __future__ import annotations

import json
import time
import warnings

import pytest
from conftest import ROOT

from language.caption_cleaning import clean_caption, require_words
from runtime.errors import UserError

CASES = json.loads((ROOT / "tests" / "reference" / "caption_cleaning.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case["text"])[:40])
def test_recorded_caption(case):
    assert clean_caption(case["text"]) == case["cleaned"]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a cat www:abc at www.example.org/x_1 here", "a cat bc at here"),
        ("'-x", "x"),  # the second pass takes the dash that the first one uncovered
        ("page 12~,#12:30 pm meeting", ":30 pm meeting"),  # spaces hide the comma and the colon, once each
        ("a ㊗ sign and a 中 word", "a sign and a word"),
        ("a cat <![foo] on a <b>mat</b>", "a cat foo on a mat"),  # no section that HTML has
        ("<![if IE]>a cat<![endif]>", "a cat"),
        ("a <![ 5 cats", "a 5 cats"),
    ],
)
def test_corner(text, cleaned):
    assert clean_caption(text) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a." * 10_000, "a. " * 9_999 + "a."),
        ("a" * 40_000 + " b.png", "a" * 40_000),
        ("a" + " " * 40_000 + "b", "a b"),
        ("see a.b.com/x_1.y.ru z", "see z"),
        ("1.5x2.25 12.x3. 7x8", "1 25 ."),
    ],
    ids=lambda value: value[:12],
)
def test_a_megabyte_without_spaces_is_no_matter_of_hours(text, cleaned):
    begun = time.process_time()
    assert clean_caption(text) == cleaned
    assert time.process_time() - begun < 2


def test_captions_that_look_like_a_path_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert clean_caption("cats&dogs.html") == "cats dogs. html"


@pytest.mark.parametrize("text", ["", "  ", "page 3", "\u628a\u732b\u53d8\u6210\u72d7"])
def test_a_text_that_says_nothing_is_refused(text):
    assert not clean_caption(text)
    with pytest.raises(UserError, match="say what you want to see"):
        require_words(text)
    require_words("a red cat")
