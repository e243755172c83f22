"""A made package in the layout of emoji-datasource-*: a few sprites, drawn here."""

from __future__ import annotations

import colorsys
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

TONES = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF")
_SKIN = ("#f7d7c4", "#e0bb95", "#bf8f68", "#9b643d", "#594539")
_HEARTS = {"HEAVY BLACK HEART": "red", "BLUE HEART": "blue", "GREEN HEART": "green", "YELLOW HEART": "gold"}
_THINGS = "BANANA ANCHOR TULIP ROCKET GUITAR CACTUS OWL LEMON KEY BOAT DRUM TENT".split()
_CLOCKS = {"CLOCK FACE ONE OCLOCK": 30, "CLOCK FACE THREE OCLOCK": 90, "CLOCK FACE SIX-THIRTY": 195}


def _entry(name: str, code: str, category: str, **more: Any) -> dict[str, Any]:
    short = {"HEAVY BLACK HEART": "heart"}.get(name, name.lower().replace(" ", "_"))
    return {
        "name": name,
        "short_name": short,
        "unified": code.upper(),
        "image": f"{code.lower()}.png",
        "category": category,
        "subcategory": more.pop("subcategory", "thing"),
        **more,
    }


def _draw(path: Path, color: Any, number: int, skin: str | None = None) -> None:
    """Every number another figure; edges touch the frame nowhere."""
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((6, 6, 57, 57), fill=color)
    for bit in range(9):
        if number >> bit & 1:
            x, y = 12 + 14 * (bit % 3), 12 + 14 * (bit // 3)
            draw.rectangle((x, y, x + 10, y + 10), fill="black")
    if skin:
        draw.ellipse((22, 22, 42, 42), fill=skin)
    picture.save(path)


def make_package(root: Path, vendor: str = "google") -> Path:
    """Writes `root`/package: people in six tones and two genders, hearts, clocks, things; returns it."""
    folder = root / "package"
    pictures = folder / "img" / vendor / "64"
    pictures.mkdir(parents=True)
    entries = []
    for index, (head, who) in enumerate((("1F468", "MAN"), ("1F469", "WOMAN"), ("1F9D1", ""))):
        for job, tool in (("COOK", "1F373"), ("FARMER", "1F33E"), ("PILOT", "2708-FE0F")):
            code = f"{head}-200D-{tool}"
            variations = {}
            number = index + 1 + 64 * (("COOK", "FARMER", "PILOT").index(job) + 1)
            for tone, skin in zip(TONES, _SKIN, strict=True):
                toned = f"{head}-{tone}-200D-{tool}"
                variations[tone] = {"unified": toned, "image": f"{toned.lower()}.png"}
                _draw(pictures / f"{toned.lower()}.png", "#4060c0", number, skin)
            _draw(pictures / f"{code.lower()}.png", "#4060c0", number, "#ffcc22")
            name = f"{who} {job}".strip()
            entries.append(_entry(name, code, "People & Body", skin_variations=variations))
    for number, (name, color) in enumerate(_HEARTS.items()):
        entries.append(_entry(name, f"{0x2764 + number:X}", "Smileys & Emotion"))
        _draw(pictures / entries[-1]["image"], color, 256)
    for number, (name, angle) in enumerate(_CLOCKS.items()):
        entries.append(_entry(name, f"{0x1F550 + number:X}", "Travel & Places"))
        _draw(pictures / entries[-1]["image"], "#dddddd", angle)
    for number, name in enumerate(_THINGS):
        entries.append(_entry(name, f"{0x1F400 + number:X}", "Objects"))
        shade = colorsys.hsv_to_rgb(number / len(_THINGS), 0.8, 0.9)
        _draw(pictures / entries[-1]["image"], tuple(round(255 * part) for part in shade), 37 * number + 1)
    entries.append(_entry("France Flag", "1F1EB-1F1F7", "Flags", subcategory="country-flag"))
    _draw(pictures / "1f1eb-1f1f7.png", "#2233aa", 73)
    entries.append(_entry("Clipperton Island Flag", "1F1E8-1F1F5", "Flags", subcategory="country-flag"))
    _draw(pictures / "1f1e8-1f1f5.png", "#2233aa", 73)  # the same picture
    (folder / "emoji.json").write_text(json.dumps(entries))
    (folder / "package.json").write_text(json.dumps({"version": "16.0.0"}))
    (folder / "LICENSE").write_text("The MIT License (MIT)\n")
    return folder
