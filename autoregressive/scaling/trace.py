"""What a search did: as JSON, and as a strip of pictures."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageDraw

from autoregressive.scaling.search import Round, SearchResult

_LEAST_SIDE = 144  # pixels of a picture in the strip; smaller ones are enlarged
_GAP, _LINE = 8, 14
_OUTLINE = (230, 0, 120)


def trace_of(result: SearchResult) -> list[dict[str, Any]]:
    """One entry a round, the first for the image that the search started from.

    Returns:
      [{"round", "reward" (of the image kept after it), "best_candidate", "accepted", "cells" (raster numbers
      of those drawn), "tokens_spent" (so far)}]
    """
    return [
        {
            "round": number,
            "reward": entry.reward,
            "best_candidate": entry.best_candidate,
            "accepted": entry.accepted,
            "cells": entry.cells,
            "tokens_spent": entry.tokens_spent,
        }
        for number, entry in enumerate(result.rounds)
    ]


def strip_of(result: SearchResult, grid: int) -> Image.Image:
    """The first image and every accepted one in a row; revised cells outlined, reward and tokens below.

    Args:
      grid: cells per side.
    """
    shown = [(number, entry) for number, entry in enumerate(result.rounds) if entry.accepted]
    pictures = [_picture(entry, grid, outlined=number > 0) for number, entry in shown]
    width, height = pictures[0].size
    strip = Image.new(
        "RGB", (len(pictures) * (width + _GAP) + _GAP, height + 2 * _GAP + 2 * _LINE), (255, 255, 255)
    )
    draw = ImageDraw.Draw(strip)
    for i, (picture, (number, entry)) in enumerate(zip(pictures, shown, strict=True)):
        left = _GAP + i * (width + _GAP)
        strip.paste(picture, (left, _GAP))
        lines = f"{f'round {number}' if number else 'start'}: {entry.reward:.4g}\n{entry.tokens_spent} tokens"
        draw.multiline_text((left, height + _GAP), lines, fill=(0, 0, 0), spacing=2)
    return strip


def _picture(entry: Round, grid: int, outlined: bool) -> Image.Image:
    """The round's image, large enough, with lines around the cells that were drawn."""
    scale = max(1, -(-_LEAST_SIDE // min(entry.image.size)))
    picture = entry.image.convert("RGB").resize(
        (entry.image.width * scale, entry.image.height * scale), Image.Resampling.NEAREST
    )
    if not outlined:
        return picture
    draw = ImageDraw.Draw(picture)
    columns = [round(i * picture.width / grid) for i in range(grid + 1)]
    rows = [round(i * picture.height / grid) for i in range(grid + 1)]
    cells = set(entry.cells)
    for cell in cells:
        row, column = divmod(cell, grid)
        left, top = columns[column], rows[row]
        right, bottom = columns[column + 1] - 1, rows[row + 1] - 1
        sides = {
            (left, top, right, top): row > 0 and cell - grid in cells,
            (left, bottom, right, bottom): cell + grid in cells,
            (left, top, left, bottom): column > 0 and cell - 1 in cells,
            (right, top, right, bottom): column + 1 < grid and cell + 1 in cells,
        }
        for side, inner in sides.items():
            if not inner:  # only the outline of the region
                draw.line(side, fill=_OUTLINE, width=2)
    return picture
