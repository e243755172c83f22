"""What a search did: as JSON, and as a strip of pictures."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image, ImageDraw

from autoregressive.editing.pictures import enlarge, outline_cells
from autoregressive.scaling.search import Round, SearchResult

_LEAST_SIDE = 144  # pixels of a picture in the strip; smaller ones are enlarged
_GAP, _LINE = 8, 14


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
    picture = enlarge(entry.image, _LEAST_SIDE)
    if not outlined:
        return picture
    cells = torch.zeros(grid**2, dtype=torch.bool)
    cells[entry.cells] = True
    return outline_cells(picture, cells, grid)
