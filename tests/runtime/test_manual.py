"""What a command line is told: the near flag, what is required, one spelling of each flag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from runtime.config import argument, build_parser, option, parse
from runtime.manual import folded


@dataclass(frozen=True)
class Paint:
    """Paints."""

    NEEDED: ClassVar[tuple[str, ...]] = ("colour",)
    ONE_OF: ClassVar[tuple[tuple[str, ...], ...]] = (("model",), ("vq_ckpt", "gpt_ckpt"))
    TOPICS: ClassVar[dict[str, str]] = {"model": "models"}

    image: str = argument("picture")
    brush_size: str | None = option(None, help="of the brush", aliases=["brush"])
    colour: str = option("red", help="of the paint")
    wall: str = option(help="where")
    model: str | None = option(None, help="a folder")
    vq_ckpt: str | None = option(None, help="a file")
    gpt_ckpt: str | None = option(None, help="a file")
    kind: str = option("a", help="one of many", choices=list("abcdefghi"))


def refusal(words: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as end:
        parse(Paint, words)
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "word, said",
    [
        ("--brush-szie", "--brush-szie (did you mean --brush-size"),
        ("--brush_siz=3", "--brush_siz (did you mean --brush-size"),
        ("-colour", "-colour (did you mean --colour?)"),
        ("--Model", "--Model (did you mean --model?)"),
        ("--zzz", "--zzz (--help lists the flags)"),
    ],
)
def test_a_slip_is_told_the_near_flag_before_anything_else(word, said, capsys):
    """Also where required flags are missing: the slip may have been one of them."""
    assert f"unrecognized arguments: {said}" in refusal([word], capsys)


def test_words_that_are_no_flags_are_left_alone():
    words = ["-1", "--wall", "a --b", "--model", "m", "--colour=--brush"]
    paint = parse(Paint, words)
    assert (paint.image, paint.wall, paint.colour) == ("-1", "a --b", "--brush")
    assert parse(Paint, ["--wall", "w", "--model", "m", "--", "--image"]).image == "--image"


def test_one_of_several_ways_must_be_given_whole(capsys):
    needed = "the following arguments are required: --model, or --vq-ckpt and --gpt-ckpt"
    assert needed in refusal(["i", "--wall", "w"], capsys)
    assert needed in refusal(["i", "--wall", "w", "--vq-ckpt", "v"], capsys)
    assert parse(Paint, ["i", "--wall", "w", "--vq-ckpt", "v", "--gpt-ckpt", "g"]).gpt_ckpt == "g"


def test_the_manual_begins_with_what_it_needs():
    text = build_parser(Paint).format_help()
    head, _, rest = text.partition("what it needs:\n")
    assert "(--model … | --vq-ckpt … --gpt-ckpt …)" in " ".join(head.split())
    needed, _, rest = rest.partition("\n\n")
    flags = [line.split()[0] for line in needed.splitlines() if line.startswith("  ") and line[2] != " "]
    assert flags == ["image", "--wall", "--colour"]
    assert "where (required)" in needed and rest.index("--brush-size") < rest.index("\nmodels:")
    assert "--brush_size" not in text and "{a,b" not in text and "one of a, b, c" in text


def test_spellings_with_a_twin_are_folded():
    assert folded(["--a-b", "--a_b", "--cfg", "--only_this"]) == ["--a-b", "--cfg", "--only_this"]
