"""Scenes of stickers on a background: their captions, their pixels, what is held out.

Lengths are ninths of the picture's side: at 72 px, with tokens of 8 px, a ninth is a token's cell.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from dataset.emoji.catalogue import Catalogue
from dataset.emoji.names import with_article
from dataset.shapes.scenes import PLACES, Background, Scene
from dataset.shapes.scenes import render as render_shapes

SIDE = 9
"""Of a picture, in the unit of lengths."""
PORTRAIT = 8
"""Side of a sticker that stands alone: 64 px at 72 px, as it was drawn."""
SIZES = {3: "small", 4: "", 5: "large", 6: "huge"}
"""Side of a sticker among others, 24 to 48 px at 72 px -> the word for it."""
_HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class Sticker:
    """A sprite at a place: its name in the catalogue, side, left and top, in ninths of the picture's side."""

    name: str
    size: int
    left: float
    top: float

    @property
    def place(self) -> str:
        """In which of the nine thirds its middle lies: "top left", "center", ..."""
        column, row = (min(int((start + self.size / 2) / SIDE * 3), 2) for start in (self.left, self.top))
        return PLACES[3 * row + column]

    @property
    def phrase(self) -> str:
        """ "a small red heart", "the small flag of france"."""
        size, named = SIZES.get(self.size, ""), with_article(self.name)
        if not size:
            return named
        if named == self.name:
            return f"{size} {named}"
        return f"the {size} {self.name}" if named.startswith("the ") else f"a {size} {self.name}"

    def box(self, image_size: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in pixels, ends excluded."""
        side = max(round(self.size * image_size / SIDE), 1)
        left, top = (
            min(round(start * image_size / SIDE), image_size - side) for start in (self.left, self.top)
        )
        return left, top, left + side, top + side

    def overlaps(self, other: Sticker) -> bool:
        """Whether the two boxes share anything."""
        apart = (
            self.left + self.size <= other.left
            or other.left + other.size <= self.left
            or self.top + self.size <= other.top
            or other.top + other.size <= self.top
        )
        return not apart


@dataclass(frozen=True)
class EmojiScene:
    """Stickers from top left to bottom right, none over another, and what lies behind them."""

    stickers: tuple[Sticker, ...]
    background: Background

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.stickers, key=lambda sticker: (sticker.top, sticker.left)))
        object.__setattr__(self, "stickers", ordered)

    def caption(self) -> str:
        """The global description: "a small red heart at the top left, striped gray background"."""
        parts = [
            sticker.phrase if sticker.size >= PORTRAIT else f"{sticker.phrase} at the {sticker.place}"
            for sticker in self.stickers
        ]
        return ", ".join([*parts, self.background.name])

    def held_out(self) -> bool:
        """True for the fixed fifth of scenes of stickers that training never shows, by their caption."""
        digest = hashlib.blake2b(self.caption().encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64 < _HELD_OUT_SHARE

    def without(self, sticker: Sticker) -> EmojiScene:
        """The scene with one sticker fewer."""
        return replace(self, stickers=tuple(other for other in self.stickers if other != sticker))

    def with_sticker(self, sticker: Sticker) -> EmojiScene:
        """The scene with one sticker more."""
        return replace(self, stickers=(*self.stickers, sticker))

    def to_dict(self) -> dict[str, Any]:
        return {
            "stickers": [asdict(sticker) for sticker in self.stickers],
            "background": asdict(self.background),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EmojiScene:
        return cls(
            tuple(Sticker(**sticker) for sticker in values["stickers"]), Background(**values["background"])
        )


@lru_cache(maxsize=4096)
def _resized(pixels: bytes, side: int) -> np.ndarray:
    """(side, side, 4) float32 of one sprite, alpha and colours times alpha in [0, 1]."""
    edge = round((len(pixels) // 4) ** 0.5)
    picture = Image.frombytes("RGBA", (edge, edge), pixels)
    if edge != side:
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)  # Pillow weighs colours by alpha
    drawn = np.asarray(picture, np.float32) / 255
    drawn = np.dstack([drawn[..., :3] * drawn[..., 3:], drawn[..., 3:]])
    drawn.setflags(write=False)
    return drawn


def sprite_at(catalogue: Catalogue, number: int, side: int) -> np.ndarray:
    """(side, side, 4) float32 of a sprite: colours times alpha, alpha, in [0, 1]; do not write into it."""
    return _resized(catalogue.pixels[number].tobytes(), side)


@lru_cache(maxsize=64)
def background_pixels(background: Background, image_size: int) -> np.ndarray:
    """(image_size, image_size, 3) uint8 of what lies behind; do not write into it."""
    drawn = render_shapes(Scene((), background), image_size)
    drawn.setflags(write=False)
    return drawn


def render(scene: EmojiScene, image_size: int, catalogue: Catalogue) -> np.ndarray:
    """Draws a scene: (image_size, image_size, 3) uint8, the same on every machine."""
    canvas = background_pixels(scene.background, image_size).astype(np.float32)
    for sticker in scene.stickers:
        left, top, right, bottom = sticker.box(image_size)
        drawn = sprite_at(catalogue, catalogue.by_name[sticker.name], right - left)
        patch = canvas[top:bottom, left:right]
        patch *= 1 - drawn[..., 3:]
        patch += 255 * drawn[..., :3]
    return (canvas + 0.5).astype(np.uint8)
