"""A contact sheet of edits as one picture, for a README or a log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dataset.records.images import as_seen, load_image
from runtime.pictures import require_saveable, save_picture, shortened

# A path, a PIL image, or an array: (H, W, 3) uint8, (H, W) bool or uint8.
ImageLike = str | Path | Image.Image | np.ndarray

_GAP = 12
_MARGIN = 24
_TEXT_HEIGHT = 52
_FONT_SIZE = 17
_PAGE, _TEXT, _FAINT, _FRAME = "#ffffff", "#1f2937", "#6b7280", "#d1d5db"
_VERDICT_COLORS = {True: "#15803d", False: "#b91c1c"}


@dataclass(frozen=True)
class EditItem:
    """One edit to show, with a few words of explanation in `note`.

    `passed` is the verifier's tick or cross; a tick says that nothing else was damaged either.
    """

    source: ImageLike
    mask: ImageLike
    instruction: str
    output: ImageLike
    target: ImageLike | None = None
    passed: bool | None = None
    note: str = ""


def to_image(image: ImageLike) -> Image.Image:
    """Loads or converts to an RGB image, as viewers show it; bool arrays become black and white.

    Raises:
      UserError: if a path cannot be read as an image.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image.astype(np.uint8) * 255 if image.dtype == bool else image)
    return as_seen(image) if isinstance(image, Image.Image) else load_image(image)


def edit_grid(items: Sequence[EditItem], path: str | Path, columns: int = 2, tile: int = 144) -> None:
    """Draws edits as blocks of source, mask, output and target over their instruction, and saves the picture.

    Args:
      items: at least one edit; a target is shown if any item has one.
      path: where to write.
      columns: blocks side by side.
      tile: side of every image in pixels; smaller images are enlarged without smoothing.
    """
    if not items:
        raise ValueError("edit_grid needs at least one item")
    require_saveable(path)
    columns = min(columns, len(items))
    labels = ["source", "mask", "output"] + ["target"] * any(item.target is not None for item in items)
    block_width = len(labels) * (tile + _GAP) - _GAP
    block_height = tile + _TEXT_HEIGHT
    header = _MARGIN + _FONT_SIZE + _GAP
    rows = -(-len(items) // columns)
    width = 2 * _MARGIN + columns * block_width + (columns - 1) * 2 * _MARGIN
    sheet = Image.new("RGB", (width, header + rows * block_height + _GAP), _PAGE)
    draw = ImageDraw.Draw(sheet)
    for column in range(columns):
        for index, label in enumerate(labels):
            x = _MARGIN + column * (block_width + 2 * _MARGIN) + index * (tile + _GAP)
            draw.text((x, _MARGIN), label, fill=_FAINT, font=ImageFont.load_default(_FONT_SIZE - 2))
    for index, item in enumerate(items):
        row, column = divmod(index, columns)
        corner = (_MARGIN + column * (block_width + 2 * _MARGIN), header + row * block_height)
        _draw_block(sheet, item, labels, corner, tile)
    save_picture(sheet, path, optimize=True)


def _draw_block(
    sheet: Image.Image, item: EditItem, labels: list[str], corner: tuple[int, int], tile: int
) -> None:
    draw = ImageDraw.Draw(sheet)
    x, y = corner
    for index, label in enumerate(labels):
        image = getattr(item, label)
        if image is None:
            continue
        left = x + index * (tile + _GAP)
        picture = _fit(image, tile)
        sheet.paste(picture, (left, y))
        frame = _VERDICT_COLORS.get(item.passed, _FRAME) if label == "output" else _FRAME
        box = (left - 1, y - 1, left + picture.width, y + picture.height)
        draw.rectangle(box, outline=frame)
    font = ImageFont.load_default(_FONT_SIZE)
    text_left = x
    if item.passed is not None:
        _draw_verdict(draw, item.passed, (x, y + tile + 12))
        text_left += 24
    room = x + len(labels) * (tile + _GAP) - _GAP - text_left
    draw.text((text_left, y + tile + 8), shortened(item.instruction, font, room), fill=_TEXT, font=font)


def _draw_verdict(draw: ImageDraw.ImageDraw, passed: bool, corner: tuple[int, int]) -> None:
    """A tick or a cross from lines: not every font has the characters."""
    x, y = corner
    lines = [((0, 7), (5, 12), (15, 0))] if passed else [((1, 0), (13, 12)), ((13, 0), (1, 12))]
    for line in lines:
        draw.line([(x + dx, y + dy) for dx, dy in line], fill=_VERDICT_COLORS[passed], width=3, joint="curve")


def _fit(image: ImageLike, tile: int) -> Image.Image:
    """Scales to fit a square tile; small images by nearest neighbour, so that their pixels stay sharp."""
    picture = to_image(image)
    scale = tile / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)
