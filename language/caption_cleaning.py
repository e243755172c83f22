"""Caption cleaning as DeepFloyd IF and PixArt do it, which the published text features were made with.

Captions scraped from the web carry links, handles, file names, product codes and markup. The rules below take
them out. They are rules of thumb with odd corners ("page 12" and "png" vanish from any caption, "a,b" becomes
"a, b"), but a model must be given the text it was trained on, so the corners are kept: same rules, same
order, applied twice: the first pass can uncover what only the second one catches, like a dash behind a quote.
"""

from __future__ import annotations

import html
import re
import warnings
from typing import NamedTuple
from urllib.parse import unquote_plus

import ftfy
from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning
from bs4.builder import ParserRejectedMarkup

from runtime.errors import UserError

DOMAINS = "com|co|ru|net|org|edu|gov|it"


class Rule(NamedTuple):
    """Every match of `pattern` becomes `replacement`."""

    pattern: re.Pattern[str]
    replacement: str
    why: str


def _rule(pattern: str, replacement: str, why: str) -> Rule:
    return Rule(re.compile(pattern), replacement, why)


def _links(scheme: str) -> str:
    """A scheme's head ("https://" alone), or a host name under a common domain with the path behind it."""
    head = rf"{scheme}:(?:/{{1,3}}|[a-zA-Z0-9%])"
    host = rf"[a-zA-Z0-9.\-]+\.(?:{DOMAINS})"
    return rf"\b(?:{head}|{host}[\w/\-]*\b/?(?!@))"


FILE_TYPES = "(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"

BEFORE_MARKUP = (
    _rule(r"<person>", "person", "the placeholder that CC12M puts in place of names"),
    _rule(_links("https?"), "", "links"),
    _rule(_links("www"), "", "links spelled www:"),
)
WORD = re.compile(r"\S+")
# What a word, in the sense of all between two spaces, needs to be changed by these rules. They would look for
# the end of a host behind each of its dots: hours, in a megabyte without spaces.
NEEDED_BEFORE_MARKUP = re.compile(rf"<person>|https?:|www:|\.(?:{DOMAINS})")

AFTER_MARKUP = (
    _rule(r"@\w+\b", "", "account names"),
    _rule(r"[\u31c0-\u9fff]+", "", "CJK ideographs, strokes and enclosed letters; Kana and Hangul stay"),
    _rule(
        r"[\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
        r"\ufe31\ufe32\ufe58\ufe63\uff0d]+",
        "-",
        "every kind of dash, or a run of them",
    ),
    _rule("[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"', "every kind of double quote"),
    _rule("[\u2018\u2019]", "'", "every kind of single quote"),
    _rule(r"&quot;?", "", "quote entities that survived the markup pass"),
    _rule(r"&amp", "", "ampersand entities that survived the markup pass"),
    _rule(r"\d{1,3}(?:\.\d{1,3}){3}", " ", "IP addresses"),
    _rule(r"\d:\d\d\s+$", "", "a time stamp at the end"),
    _rule(r"\\n", " ", "a line break written as backslash and n"),
    _rule(r"#\d{1,3}\b", "", "short numbered tags"),
    _rule(r"#\d{5,}\b", "", "long numbered tags"),
    _rule(r"\b\d{6,}\b", "", "long numbers"),
    _rule(rf"(?<!\S)\S+\.{FILE_TYPES}", "", "file names; from the start of a word, as the first match is"),
    _rule(r"[\"']{2,}", '"', "runs of quotes"),
    _rule(r"\.{2,}", " ", "runs of full stops"),
    _rule(r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " ", "punctuation that says nothing about a picture"),
    _rule(r"(?<!\s)\s+\.\s+", " ", "a full stop on its own"),
)

AFTER_REPAIR = (
    _rule(r"\b[a-zA-Z]{1,3}\d{3,15}\b", "", "codes such as jc6640"),
    _rule(r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", "", "codes such as jc6640vc"),
    _rule(r"\b\d+[a-zA-Z]+\d+\b", "", "codes such as 6640vc231"),
    _rule(r"(?:worldwide\s+)?(?:free\s+)?shipping", "", "sales talk"),
    _rule(r"(?:free\s)?download(?:\sfree)?", "", "sales talk"),
    _rule(r"\bclick\b\s(?:for|on)\s\w+", "", "calls to click"),
    _rule(rf"\b{FILE_TYPES}(?:\simages?)?", "", "file types"),
    _rule(r"\bpage\s+\d+\b", "", "page numbers"),
    _rule(r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " ", "codes such as j2d1a2a"),
    _rule(r"\b\d+(?:\.\d*)?[x\u0445\u00d7]\d+(?:\.\d*)?\b", "", "sizes such as 640x480, or a Cyrillic x"),
    _rule(r"\b\s+:\s+", ": ", "a colon belongs to the word before it"),
    _rule(r"(\D[,./])\b", r"\1 ", "a space after comma, full stop and slash"),
    _rule(r"\s+", " ", "one space between words"),
)

AT_THE_ENDS = (
    _rule(r"^[\"']([\w\W]+)[\"']$", r"\1", "quotes around the whole caption"),
    _rule(r"^['_,\-:;]", "", "a mark that nothing precedes"),
    _rule(r"['_,\-:+]$", "", "a mark that nothing follows"),
    _rule(r"^\.\S+$", "", "a single word that starts with a full stop"),
)

SEPARATOR = re.compile(r"[-_]")
MOST_SEPARATORS = 3  # more than this many make a file-name-like caption, whose separators are its spaces


def clean_caption(text: str) -> str:
    """Cleans a caption the way the published text features expect it, in two passes.

    Args:
      text: any string, also an empty one.
    Returns:
      lower-case text; may be empty, if nothing of the caption describes a picture.
    """
    return _clean_once(_clean_once(text))


def _clean_once(text: str) -> str:
    text = unquote_plus(text).strip().lower()
    text = WORD.sub(_without_links, text)
    text = _without_markup(text)
    text = _apply(AFTER_MARKUP, text)
    if len(SEPARATOR.findall(text)) > MOST_SEPARATORS:
        text = SEPARATOR.sub(" ", text)
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    text = _apply(AFTER_REPAIR, text)
    return _apply(AT_THE_ENDS, text).strip()  # a space at an end hides it from these rules, as it always did


def _apply(rules: tuple[Rule, ...], text: str) -> str:
    for rule in rules:
        text = rule.pattern.sub(rule.replacement, text)
    return text


def _without_links(word: re.Match[str]) -> str:
    return _apply(BEFORE_MARKUP, word[0]) if NEEDED_BEFORE_MARKUP.search(word[0]) else word[0]


def _without_markup(text: str) -> str:
    if "<" not in text and "&" not in text:  # nothing to parse, and parsing is most of the cost
        return text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)  # a caption is never a path to open
        try:
            return BeautifulSoup(text, features="html.parser").text
        except ParserRejectedMarkup:  # "<![" that begins no section; the published cleaning ends there
            return BeautifulSoup(text.replace("<![", "["), features="html.parser").text


def require_words(text: str, origin: str = "") -> None:
    """Checks a prompt; `origin` names its place in errors.

    Raises:
      UserError: cleaning leaves nothing of the text, so that the model would be told nothing.
    """
    where = f"{origin}: " if origin else ""
    if not text.strip():
        raise UserError(f"{where}say what you want to see: the text is empty")
    if not clean_caption(text):
        raise UserError(
            f"{where}say what you want to see in English words: cleaning leaves nothing of {text[:80]!r}"
        )
