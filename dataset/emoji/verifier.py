"""Says from pixels alone which emoji stands at a place, and whether an edit of emoji was done.

A sticker's box is compared with every sprite of the package, each laid over the scene's own background, and
with the background alone; the smallest mean squared difference, over small shifts, says what is there. All of
the box counts, so that a small sprite cannot win by covering little.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image

from dataset.emoji.catalogue import Catalogue
from dataset.emoji.edits import EmojiExample
from dataset.emoji.scenes import SIDE, EmojiScene, Sticker, background_pixels, render, sprite_at
from runtime.errors import UserError

NOTHING = "nothing"
SPRITES = "sprites.npz"
_SHIFT = 1  # of 72 pixels: so far a sticker may stand from its place
_FINE, _COARSE = 32, 24  # pixels at which large and small stickers are compared
_SHORTLIST = 8  # sprites whose distances are computed anew, without rounding
# Root mean square of a cell of background, in levels.
_SAME_BACKGROUND = 40.0


@dataclass(frozen=True)
class EmojiVerdict:
    """Whether an edit was done; None where the edit does not ask the question.

    Attributes:
      passed: the wanted sprite (or background) is there, and what gave way is gone.
      others_unchanged: every other sticker is still itself, and the background is what it should be.
      sprite: of all sprites the wanted one is nearest.
      look_alike: the nearest is the wanted one, or one change away from it: a tone, a time, a colour.
      removed: nothing stands at the place any more.
      wanted, found: names.
      relation: of what was found to what was wanted, see `Catalogue.relation`; "nothing" is one too.
    """

    passed: bool
    others_unchanged: bool
    sprite: bool | None = None
    look_alike: bool | None = None
    removed: bool | None = None
    wanted: str | None = None
    found: str | None = None
    relation: str | None = None

    @property
    def passed_and_unchanged(self) -> bool:
        """The headline: the edit was done and did no damage."""
        return self.passed and self.others_unchanged


class EmojiVerifier:
    """Judges pictures of one catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

        self._tables: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._lock = Lock()  # evaluators measure pairs in threads

    def require(self, examples: Iterable[EmojiExample], origin: str | Path) -> None:
        """Checks that the catalogue holds all that the examples show.

        Raises:
          UserError: naming a sprite that it lacks.
        """
        scenes = (scene for example in examples for scene in (example.before, example.after))
        names = {sticker.name for scene in scenes for sticker in scene.stickers}
        if missing := sorted(names - self.catalogue.by_name.keys()):
            raise UserError(f"{origin}: the sprites beside it lack {missing[0]!r}; they are of another set")

    def nearest(self, image: np.ndarray, sticker: Sticker, scene: EmojiScene) -> tuple[str, float]:
        """What stands in a sticker's box, whatever its name.

        Args:
          image: (H, H, 3) uint8.
          sticker: tells the box.
          scene: tells the background.
        Returns:
          (name of the nearest sprite or `NOTHING`, its root mean square difference in [0, 1]).
        """
        size, side = _side(image), _COARSE if sticker.size < 4 else _FINE
        behind = background_pixels(scene.background, size)
        crops = [
            (_resized(image, box, side), _resized(behind, box, side)) for box in _shifted_boxes(sticker, size)
        ]
        images, backgrounds = (np.stack(part) for part in zip(*crops, strict=True))
        distances = self._distances(images, backgrounds, side).min(axis=1)
        best = min(
            (self._exact(number, images, backgrounds), number)
            for number in np.argpartition(distances, min(_SHORTLIST, len(distances) - 1))[:_SHORTLIST]
        )
        number = int(best[1])
        name = NOTHING if number == len(self.catalogue.sprites) else self.catalogue.sprites[number].name
        return name, float(np.sqrt(best[0]))

    def verify_edit(self, image: np.ndarray, example: EmojiExample) -> EmojiVerdict:
        """The verdict on (H, H, 3) uint8 `image` as the outcome of an edit."""
        size = _side(image)
        before, after = (render(scene, size, self.catalogue) for scene in (example.before, example.after))
        region = _scaled_region(example, size)
        stickers = [sticker for sticker in example.after.stickers if sticker != example.wanted]
        others = all(self._is_right(image, sticker, example, before) for sticker in stickers)
        kept = ~region if not example.edit.is_global else np.zeros_like(region)
        others &= _same_background(image, after, kept & ~_covered(example, size))
        nearer = all(_is_nearer(image, before, after, box) for box in _scaled_boxes(example, size))
        if example.edit.kind == "background":
            same = _same_background(image, after, ~_covered(example, size))
            return EmojiVerdict(bool(nearer and same), bool(others))
        if example.wanted is None:
            old = next(s for s in example.before.stickers if s not in example.after.stickers)
            found, _ = self.nearest(image, old, example.after)
            gone = found == NOTHING
            return EmojiVerdict(bool(gone and nearer), bool(others), removed=gone, found=found)
        found, _ = self.nearest(image, example.wanted, example.after)
        wanted = example.wanted.name
        relation = self._relation(wanted, found)
        return EmojiVerdict(
            passed=bool(found == wanted and nearer),
            others_unchanged=bool(others),
            sprite=found == wanted,
            look_alike=relation not in ("other", NOTHING),
            wanted=wanted,
            found=found,
            relation=relation,
        )

    def verify_scene(self, image: np.ndarray, scene: EmojiScene) -> dict[str, object]:
        """How a drawing agrees with its scene: {"passed", "sprites": [], "relations": [], "background"}."""
        size = _side(image)
        found = [self.nearest(image, sticker, scene)[0] for sticker in scene.stickers]
        empty = np.ones((size, size), bool)
        for left, top, right, bottom in (sticker.box(size) for sticker in scene.stickers):
            empty[top:bottom, left:right] = False
        behind = _same_background(image, render(scene, size, self.catalogue), empty)
        right = [name == sticker.name for name, sticker in zip(found, scene.stickers, strict=True)]
        return {
            "passed": all(right) and behind,
            "sprites": right,
            "relations": [
                self._relation(s.name, name) for s, name in zip(scene.stickers, found, strict=True)
            ],
            "background": behind,
        }

    def _relation(self, wanted: str, found: str) -> str:
        if found == NOTHING:
            return NOTHING
        return self.catalogue.relation(self.catalogue.by_name[wanted], self.catalogue.by_name[found])

    def _is_right(
        self, image: np.ndarray, sticker: Sticker, example: EmojiExample, before: np.ndarray
    ) -> bool:
        """A sticker that should have stayed; where no pixel has changed there is nothing to look for."""
        left, top, right, bottom = sticker.box(len(image))
        untouched = (image[top:bottom, left:right] == before[top:bottom, left:right]).all()
        return bool(untouched) or self.nearest(image, sticker, example.after)[0] == sticker.name

    def _exact(self, number: int, images: np.ndarray, backgrounds: np.ndarray) -> float:
        """The smallest mean squared difference over the shifts; one past the last sprite: of nothing."""
        if number == len(self.catalogue.sprites):
            drawn = backgrounds
        else:
            sprite = sprite_at(self.catalogue, number, images.shape[1])
            drawn = sprite[..., :3] + (1 - sprite[..., 3:]) * backgrounds
        return float(np.square(images - drawn).mean(axis=(1, 2, 3)).min())

    def _distances(self, images: np.ndarray, backgrounds: np.ndarray, side: int) -> np.ndarray:
        """(sprites + 1, shifts) mean squared differences, as one product of matrices.

        A sprite of colours P (times alpha) and transparency Q, over a background B, differs from I by
        |P + QB - I|² = |P|² + 2 QP·B + Q²·|B|² - 2 P·I - 2 Q·(B·I) + |I|², summed over pixels.
        """
        with self._lock:
            if side not in self._tables:
                self._tables[side] = self._table(side)
        table, constant = self._tables[side]
        shifts = len(images)
        behind = np.square(backgrounds).sum(axis=3), (backgrounds * images).sum(axis=3)
        seen = np.concatenate(
            [
                2 * backgrounds.reshape(shifts, -1),
                behind[0].reshape(shifts, -1),
                -2 * images.reshape(shifts, -1),
                -2 * behind[1].reshape(shifts, -1),
            ],
            axis=1,
        )
        total = table @ seen.T + constant[:, None] + np.square(images).sum(axis=(1, 2, 3))
        return total / (3 * side * side)

    def _table(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """What `_distances` multiplies: a row a sprite, the last one of nothing; and each one's |P|²."""
        count, pixels = len(self.catalogue.sprites), side * side
        table = np.zeros((count + 1, 8 * pixels), np.float32)
        constant = np.zeros(count + 1, np.float32)
        for number in range(count):
            sprite = sprite_at(self.catalogue, number, side)
            color, through = sprite[..., :3], 1 - sprite[..., 3:]
            parts = (through * color, np.square(through), color, through)
            table[number] = np.concatenate([part.ravel() for part in parts])
            constant[number] = np.square(color).sum()
        table[count, 3 * pixels : 4 * pixels] = table[count, 7 * pixels :] = 1
        return table, constant


def find_catalogue(path: str | Path) -> Catalogue:
    """The sprites of the set that a file belongs to: beside it, or one folder up.

    Raises:
      UserError: there are none.
    """
    folder = Path(path).resolve().parent
    for place in (folder, folder.parent):
        if (place / SPRITES).is_file():
            return Catalogue.load(place / SPRITES)
    raise UserError(f"{path}: no {SPRITES} beside it or one folder up; keep the set together")


def _side(image: np.ndarray) -> int:
    if image.ndim != 3 or image.shape[2] != 3 or image.shape[0] != image.shape[1] or image.dtype != np.uint8:
        raise UserError(
            f"the emoji verifier reads square (H, H, 3) uint8 images, not {image.shape} {image.dtype}"
        )
    return image.shape[0]


def _shifted_boxes(sticker: Sticker, size: int) -> Sequence[tuple[int, int, int, int]]:
    """The sticker's box and those around it that lie inside of the picture."""
    left, top, right, bottom = sticker.box(size)
    reach = max(round(_SHIFT * size / 72), 1)
    shifts = product((-reach, 0, reach), repeat=2)
    boxes = ((left + dx, top + dy, right + dx, bottom + dy) for dx, dy in shifts)
    return [box for box in boxes if min(box) >= 0 and max(box) <= size]


def _resized(image: np.ndarray, box: tuple[int, int, int, int], side: int) -> np.ndarray:
    """(side, side, 3) float32 in [0, 1] of a box of an image."""
    left, top, right, bottom = box
    crop = image[top:bottom, left:right]
    if len(crop) != side:
        crop = np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.LANCZOS))
    return crop.astype(np.float32) / 255


def _scaled_boxes(example: EmojiExample, size: int) -> list[tuple[int, int, int, int]]:
    """The edit's boxes, all of the picture without any, at another size than the edit was made for."""
    scale = size / example.edit.image_size
    boxes = example.edit.boxes or ((0, 0, example.edit.image_size, example.edit.image_size),)
    return [
        (int(left * scale), int(top * scale), int(np.ceil(right * scale)), int(np.ceil(bottom * scale)))
        for left, top, right, bottom in boxes
    ]


def _scaled_region(example: EmojiExample, size: int) -> np.ndarray:
    region = np.zeros((size, size), bool)
    for left, top, right, bottom in _scaled_boxes(example, size):
        region[top:bottom, left:right] = True
    return region


def _covered(example: EmojiExample, size: int) -> np.ndarray:
    """(size, size) bool: where stickers stand, before or after."""
    covered = np.zeros((size, size), bool)
    for sticker in (*example.before.stickers, *example.after.stickers):
        left, top, right, bottom = sticker.box(size)
        covered[top:bottom, left:right] = True
    return covered


def _is_nearer(
    image: np.ndarray, before: np.ndarray, after: np.ndarray, box: tuple[int, int, int, int]
) -> bool:
    """Whether a box looks more like the scene to reach than like the one that was edited."""
    left, top, right, bottom = box
    wrong, right_one = (
        np.square(image[top:bottom, left:right].astype(np.float32) - scene[top:bottom, left:right]).mean()
        for scene in (before, after)
    )
    return bool(right_one < wrong)


def _same_background(image: np.ndarray, scene: np.ndarray, where: np.ndarray) -> bool:
    """Whether every cell of a ninth of the side shows what it should at the pixels that `where` marks."""
    error = np.square(image.astype(np.float32) - scene).mean(axis=2)
    cells = np.arange(len(image)) * SIDE // len(image)
    index = cells[:, None] * SIDE + cells[None, :]
    sums, counts = (
        np.bincount(index[where], weights, minlength=SIDE * SIDE) for weights in (error[where], where[where])
    )
    return bool((sums <= _SAME_BACKGROUND**2 * np.maximum(counts, 1)).all())
