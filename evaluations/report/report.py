"""A self-contained HTML report: curves, tables and image grids in one file that opens anywhere.

build_report("report.html", "Quickstart", [TextSection("What this is", "..."), TableSection(...)])
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluations.report.curves import draw_curves, read_metrics
from evaluations.report.edit_grid import EditItem, ImageLike, to_image
from evaluations.report.pages import write_page

_SHOWN_SIDE = 128
_MAX_EMBEDDED_SIDE = 512


@dataclass(frozen=True)
class TextSection:
    """Paragraphs, separated by blank lines."""

    title: str
    text: str


@dataclass(frozen=True)
class CommandSection:
    """Commands to copy, each after a sentence that says what it does."""

    title: str
    commands: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class TableSection:
    """A table; numbers are formatted and None is a dash. `marked_rows` (indices) stand out."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    digits: int = 4
    marked_rows: Sequence[int] = ()


@dataclass(frozen=True)
class CurveSection:
    """One small chart per run, drawn from its metrics.jsonl.

    Attributes:
      runs: name of the run -> its metrics.jsonl.
      keys: the numbers to draw; a run shows those it has.
    """

    title: str
    runs: Mapping[str, str | Path]
    keys: Sequence[str] = ("loss",)
    note: str = ""


@dataclass(frozen=True)
class EditGridSection:
    """Rows of source | mask | instruction | output | target."""

    title: str
    items: Sequence[EditItem]
    note: str = ""


@dataclass(frozen=True)
class ImagePairsSection:
    """Pairs of images side by side, such as originals and reconstructions: (left, right, caption)."""

    title: str
    pairs: Sequence[tuple[ImageLike, ImageLike, str]]
    labels: tuple[str, str] = ("original", "reconstruction")
    note: str = ""


@dataclass(frozen=True)
class DetailsSection:
    """Sections that are folded away behind their title until a reader opens them."""

    title: str
    sections: Sequence[Section]


Section = (
    TextSection
    | CommandSection
    | TableSection
    | CurveSection
    | EditGridSection
    | ImagePairsSection
    | DetailsSection
)


def build_report(path: str | Path, title: str, sections: Sequence[Section], subtitle: str = "") -> None:
    """Writes the report; images and charts are inside the file, text is escaped.

    Raises:
      UserError: if an image or a metrics.jsonl cannot be read, or the file cannot be written.
    """
    shown = [_render_data(section) for section in sections]
    write_page(path, "report.html", title=title, subtitle=subtitle, sections=shown)


def _render_data(section: Section) -> dict[str, Any]:
    """What the template shows: the section's kind, title and note, and finished strings and data URLs."""
    data = {"kind": type(section).__name__, "title": section.title, "note": getattr(section, "note", "")}
    if isinstance(section, TextSection):
        data["paragraphs"] = [part.strip() for part in section.text.split("\n\n") if part.strip()]
    elif isinstance(section, CommandSection):
        data["commands"] = section.commands
    elif isinstance(section, DetailsSection):
        data["sections"] = [_render_data(inner) for inner in section.sections]
    elif isinstance(section, TableSection):
        data["columns"] = section.columns
        data["rows"] = [
            {
                "marked": index in section.marked_rows,
                "cells": [
                    {"text": format_cell(cell, section.digits), "number": _is_number(cell)} for cell in row
                ],
            }
            for index, row in enumerate(section.rows)
        ]
    elif isinstance(section, CurveSection):
        series = {name: read_metrics(path, section.keys) for name, path in section.runs.items()}
        data["light"] = _data_url(draw_curves(series, dark=False))
        data["dark"] = _data_url(draw_curves(series, dark=True))
        data["alt"] = f"{', '.join(section.keys)} of {', '.join(section.runs)}"
    elif isinstance(section, EditGridSection):
        data["with_target"] = any(item.target is not None for item in section.items)
        data["items"] = [
            {
                "source": _embed(item.source),
                "mask": _embed(item.mask),
                "instruction": item.instruction,
                "note": item.note,
                "output": _embed(item.output),
                "target": None if item.target is None else _embed(item.target),
                "verdict": {None: "", True: "pass", False: "fail"}[item.passed],
            }
            for item in section.items
        ]
    else:
        data["labels"] = section.labels
        data["pairs"] = [
            {"left": _embed(left), "right": _embed(right), "caption": caption}
            for left, right, caption in section.pairs
        ]
    return data


def format_cell(value: Any, digits: int = 4) -> str:
    """A table cell as text: floats with `digits` decimals, None as a dash."""
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, (float, np.floating)) else str(value)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float, np.number)) and not isinstance(value, bool))


def _embed(image: ImageLike) -> dict[str, Any]:
    """A data URL and the width to show it at.

    Small images grow by a whole factor, so that all their pixels stay equally large; large ones are reduced,
    because a report full of photographs would not open.
    """
    picture = to_image(image)
    small = max(picture.size) <= _SHOWN_SIDE
    width = picture.width * round(_SHOWN_SIDE / max(picture.size)) if small else _SHOWN_SIDE
    if max(picture.size) > _MAX_EMBEDDED_SIDE:
        picture.thumbnail((_MAX_EMBEDDED_SIDE, _MAX_EMBEDDED_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return {"url": _data_url(buffer.getvalue()), "width": width, "small": small}


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
