"""Edits of emoji: what artists drew twice, and stickers that come, go, move, grow or give way to others.

Every example is a function of (catalogue, settings, seed); nothing is remembered between calls.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dataset.emoji.catalogue import PAIR_KINDS, Catalogue, SpritePair
from dataset.emoji.names import with_article
from dataset.emoji.scenes import PORTRAIT, SIDE, EmojiScene, Sticker, render
from dataset.shapes.scenes import BACKGROUND_KINDS, BACKGROUNDS, Background
from runtime.errors import UserError

STICKER_KINDS = ("add", "remove", "replace", "move", "resize", "background")
EDIT_KINDS = (*PAIR_KINDS, *STICKER_KINDS)
NUM_LOOKS = 4  # of gradients and textures, as in the shapes set
MIN_NAMES = 8
_ATTEMPTS = 400
# Larger ones come more often: of a token for 8 x 8 px little is left in 24 px.
_SIDES = (3, 4, 5, 5, 6)
_GROWN = {3: 5, 4: 6, 5: 3, 6: 4}  # sides that share a middle on the grid of cells

_INSTRUCTIONS = {
    "tone": ("give {it} {value} skin", "change the skin to {value}", "make the skin {value}"),
    "gender": ("turn {it} into {new}", "change {it} to {new}", "make {it} {new}"),
    "hair": ("give {it} {value}", "change {it} to have {value}"),
    "color": ("make {it} {value}", "change {it} to {value}", "paint {it} {value}"),
    "clock": ("set the clock to {value}", "change the time to {value}", "make it {value}"),
    "moon": ("change the moon to {new}", "turn the moon into {new}", "make it {new}"),
    "add": ("add {new} {where}", "put {new} {where}", "draw {new} {where}"),
    "remove": ("remove the {old}", "delete the {old}", "erase the {old}"),
    "replace": ("replace the {old} with {unsized}", "swap the {old} for {unsized}"),
    "move": ("move the {old} to the {place}", "shift the {old} to the {place}"),
    "resize": ("make the {old} {size}", "change the {old} to be {size}"),
    "background": ("change the background to {background}", "make the background {background}"),
}
_BALD = ("make {it} bald", "remove the hair")
_BEARD = ("give {it} a beard", "add a beard to {it}")


@dataclass(frozen=True)
class EmojiConfig:
    """What scenes and edits are drawn from.

    Attributes:
      image_size: side of the images in pixels.
      natural_share: of the edits, that change a portrait into one that an artist drew beside it.
      backgrounds: subset of `BACKGROUND_KINDS`.
      max_stickers: how many stickers scenes hold at most; an edit may leave one fewer, or none.
      num_sticker_names: how many names stickers of training have, in all tones: names of one word first.
        None = all. A small model learns few by heart, at any place and in every size.
      sticker_kinds: of `STICKER_KINDS`, how stickers are edited in training; one that is named twice comes
        twice as often. Test sets have all kinds alike.
    """

    image_size: int = 72
    natural_share: float = 0.5
    backgrounds: tuple[str, ...] = BACKGROUND_KINDS
    max_stickers: int = 3
    num_sticker_names: int | None = None
    sticker_kinds: tuple[str, ...] = STICKER_KINDS

    def __post_init__(self) -> None:
        if not 27 <= self.image_size <= 4096:
            raise UserError(f"emoji image_size={self.image_size}: choose 27 to 4096 pixels")
        if not 0 <= self.natural_share <= 1:
            raise UserError(f"emoji natural_share={self.natural_share}: choose 0 to 1")
        if not 2 <= self.max_stickers <= 4:
            raise UserError(f"emoji max_stickers={self.max_stickers}: choose 2 to 4, which find room")
        if not self.sticker_kinds or not set(self.sticker_kinds) <= set(STICKER_KINDS):
            raise UserError(f"emoji sticker_kinds={self.sticker_kinds}: choose of {', '.join(STICKER_KINDS)}")
        if self.num_sticker_names is not None and self.num_sticker_names < MIN_NAMES:
            raise UserError(
                f"emoji num_sticker_names={self.num_sticker_names}: choose {MIN_NAMES} or more, none for all"
            )


@dataclass(frozen=True)
class EmojiEdit:
    """One change; `boxes` (left, top, right, bottom in pixels) hold all that differs, none = everywhere."""

    kind: str
    boxes: tuple[tuple[int, int, int, int], ...]
    instruction: str
    local_description: str
    image_size: int

    @property
    def is_global(self) -> bool:
        """Whether all of the picture may change."""
        return not self.boxes

    def region(self, image_size: int) -> np.ndarray:
        """(image_size, image_size) bool: the pixels the edit may change; all that change are among them."""
        assert image_size == self.image_size, f"{image_size} pixels; the edit was made for {self.image_size}"
        region = np.full((image_size, image_size), self.is_global)
        for left, top, right, bottom in self.boxes:
            region[top:bottom, left:right] = True
        return region


@dataclass(frozen=True)
class EmojiExample:
    """A source scene, the edit, and the scene it must lead to; `wanted` is the sticker it makes, if any."""

    before: EmojiScene
    after: EmojiScene
    edit: EmojiEdit
    wanted: Sticker | None

    def key(self) -> tuple[str, str]:
        """Equal for edits that show the same pair of scenes, up to exact places and texture seeds."""
        return self.before.caption(), self.after.caption()

    def to_dict(self) -> dict[str, Any]:
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "edit": vars(self.edit),
            "wanted": None if self.wanted is None else vars(self.wanted),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EmojiExample:
        edit = EmojiEdit(**values["edit"] | {"boxes": tuple(map(tuple, values["edit"]["boxes"]))})
        wanted = None if values["wanted"] is None else Sticker(**values["wanted"])
        return cls(
            EmojiScene.from_dict(values["before"]), EmojiScene.from_dict(values["after"]), edit, wanted
        )


def _pick(rng: np.random.Generator, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def random_background(rng: np.random.Generator, config: EmojiConfig) -> Background:
    """Draws what lies behind the stickers."""
    kind = _pick(rng, config.backgrounds)
    seed = 0 if kind == "plain" else int(rng.integers(NUM_LOOKS))
    return Background(_pick(rng, tuple(BACKGROUNDS)), kind, seed)


def portrait(name: str, background: Background) -> EmojiScene:
    """One emoji as it was drawn, in the middle."""
    edge = (SIDE - PORTRAIT) / 2
    return EmojiScene((Sticker(name, PORTRAIT, edge, edge),), background)


def _without_color(base: str, pair: SpritePair) -> str:
    """ "heart" of "red heart", for an instruction that names the new colour."""
    return base.removeprefix(f"{pair.old_value} ") if pair.kind == "color" else base


def _plainness(base: str) -> tuple[int, bytes]:
    """Sorts names of few words first, those of equally many in an order that means nothing."""
    return len(base.split()), hashlib.blake2b(base.encode(), digest_size=8).digest()


class EmojiEdits:
    """Draws examples of one catalogue and one setting, of either side of the splits."""

    def __init__(self, catalogue: Catalogue, config: EmojiConfig) -> None:
        self.catalogue, self.config = catalogue, config
        self._pairs = {side: self._by_kind(catalogue.pairs_of(held_out=side)) for side in (False, True)}
        bases: dict[str, list[int]] = {}
        for number in catalogue.seen:
            bases.setdefault(catalogue.sprites[number].base, []).append(number)
        if len(bases) < MIN_NAMES:
            raise UserError(
                f"the package leaves {len(bases)} names to train on; {MIN_NAMES} or more are needed"
            )
        if config.num_sticker_names is not None:
            bases = {base: bases[base] for base in sorted(bases, key=_plainness)[: config.num_sticker_names]}
        self._stickers = list(bases.values())

    def natural(self, seed: Any, held_out: bool = False) -> EmojiExample | None:
        """A portrait changed into its twin; every kind of pair comes as often as its root allows.

        Returns:
          None if the package holds no such pair.
        """
        rng = np.random.default_rng(seed)
        by_kind = self._pairs[held_out]
        if not by_kind:
            return None
        weights = np.sqrt([len(pairs) for pairs in by_kind.values()])
        kind = list(by_kind)[rng.choice(len(by_kind), p=weights / weights.sum())]
        pair = _pick(rng, by_kind[kind])
        background = random_background(rng, self.config)
        old, new = (self.catalogue.sprites[number] for number in (pair.source, pair.target))
        before, after = portrait(old.name, background), portrait(new.name, background)
        words = {
            "it": f"the {_without_color(old.base, pair)}",
            "new": with_article(new.base),
            "value": pair.value,
        }
        (wanted,) = after.stickers
        edit = self._say(rng, pair.kind, words, (self._differing_box(before, after),), after, wanted)
        return EmojiExample(before, after, edit, wanted)

    def stickers(
        self, seed: Any, turns: int = 1, held_out: bool = False, names: list[int] | None = None
    ) -> list[EmojiExample]:
        """`turns` edits in a row, each of the previous one's result.

        Args:
          held_out: side of the split of scenes.
          names: the sprites that edits add or put in another's place; None = any of training.
        """
        rng = np.random.default_rng(seed)
        while True:
            scene = self._random_scene(rng, held_out)
            session = []
            while len(session) < turns and (example := self._edit(rng, scene, held_out, names)):
                session.append(example)
                scene = example.after
            if len(session) == turns:
                return session

    def _by_kind(self, pairs: list[SpritePair]) -> dict[str, list[SpritePair]]:
        return {
            kind: found for kind in PAIR_KINDS if (found := [pair for pair in pairs if pair.kind == kind])
        }

    def _sprite(self, rng: np.random.Generator, names: list[int] | None = None) -> str:
        """A name: those of stickers all alike, whatever the number of their tones."""
        number = _pick(rng, _pick(rng, self._stickers) if names is None else names)
        return self.catalogue.sprites[number].name

    def _sticker(
        self, rng: np.random.Generator, scene: EmojiScene, name: str, size: int | None = None
    ) -> Sticker | None:
        """Places a sticker where there is room and no other of its name; None if none is found."""
        if any(other.name == name for other in scene.stickers):
            return None
        for _ in range(20):
            side = size or _pick(rng, _SIDES)
            left, top = (int(start) for start in rng.integers(0, SIDE - side + 1, 2))
            sticker = Sticker(name, side, left, top)
            if not any(sticker.overlaps(other) for other in scene.stickers):
                return sticker
        return None

    def _random_scene(self, rng: np.random.Generator, held_out: bool) -> EmojiScene:
        while True:
            scene = EmojiScene((), random_background(rng, self.config))
            for _ in range(int(rng.integers(1, self.config.max_stickers + 1))):
                if sticker := self._sticker(rng, scene, self._sprite(rng)):
                    scene = scene.with_sticker(sticker)
            if scene.stickers and scene.held_out() == held_out:
                return scene

    def _edit(
        self, rng: np.random.Generator, scene: EmojiScene, held_out: bool, names: list[int] | None
    ) -> EmojiExample | None:
        kinds = STICKER_KINDS if held_out else self.config.sticker_kinds
        kinds = ("add", "replace") if names else kinds
        for _ in range(_ATTEMPTS):
            kind = _pick(rng, kinds)
            change = self._change(rng, scene, kind, names)
            if change is None or (names is None and change[0].held_out() != held_out):
                continue
            after, old, new = change
            words = {
                "old": old and old.name,
                "new": new and new.phrase,
                "unsized": new and with_article(new.name),
                "where": new and f"at the {new.place}",
                "place": new and new.place,
                "size": old and new and ("bigger" if new.size > old.size else "smaller"),
                "background": after.background.name.removesuffix(" background"),
            }
            boxes = dict.fromkeys(s.box(self.config.image_size) for s in (old, new) if s)
            edit = self._say(rng, kind, words, tuple(boxes), after, new)
            return EmojiExample(scene, after, edit, new)
        return None

    def _change(
        self, rng: np.random.Generator, scene: EmojiScene, kind: str, names: list[int] | None
    ) -> tuple[EmojiScene, Sticker | None, Sticker | None] | None:
        """Draws (scene after the edit, the sticker that was, the one that is); None if it cannot be done."""
        if kind == "background":
            behind = random_background(rng, self.config)
            return (
                None
                if behind.name == scene.background.name
                else (replace(scene, background=behind), None, None)
            )
        if kind == "add":
            if len(scene.stickers) == self.config.max_stickers:
                return None
            new = self._sticker(rng, scene, self._sprite(rng, names))
            return new and (scene.with_sticker(new), None, new)
        if not scene.stickers:
            return None
        old = _pick(rng, scene.stickers)
        rest = scene.without(old)
        if kind == "remove":
            return rest, old, None
        if kind == "replace":
            new = replace(old, name=self._sprite(rng, names))
            taken = any(other.name == new.name for other in scene.stickers)
        elif kind == "move":
            new = self._sticker(rng, rest, old.name, old.size)
            taken = new is None or new.place == old.place
        else:
            side = _GROWN[old.size]
            shift = (old.size - side) / 2
            new = Sticker(old.name, side, int(old.left + shift), int(old.top + shift))
            inside = min(new.left, new.top) >= 0 and max(new.left, new.top) + side <= SIDE
            taken = not inside or any(new.overlaps(other) for other in rest.stickers)
        return None if taken else (rest.with_sticker(new), old, new)

    def _say(
        self,
        rng: np.random.Generator,
        kind: str,
        words: dict[str, Any],
        boxes: tuple[tuple[int, int, int, int], ...],
        after: EmojiScene,
        wanted: Sticker | None,
    ) -> EmojiEdit:
        templates = {"bald": _BALD, "beard": _BEARD}.get(words.get("value"), _INSTRUCTIONS[kind])
        told = _pick(rng, templates).format(**words)
        if wanted is None:
            local = after.background.name
        else:
            local = wanted.phrase if wanted.size >= PORTRAIT else f"{wanted.phrase} at the {wanted.place}"
        return EmojiEdit(kind, boxes, told, local, self.config.image_size)

    def _differing_box(self, before: EmojiScene, after: EmojiScene) -> tuple[int, int, int, int]:
        """The smallest box around all pixels that differ."""
        size = self.config.image_size
        differs = (render(before, size, self.catalogue) != render(after, size, self.catalogue)).any(axis=2)
        rows, columns = (np.flatnonzero(differs.any(axis=axis)) for axis in (1, 0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
