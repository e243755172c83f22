"""The sprites of a package with their names, what is one change apart, and what is held out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dataset.emoji.names import NO_TONE, TONES, clean_name, gender_of, neutral_name
from dataset.emoji.package import EmojiPackage
from runtime.errors import UserError
from runtime.files import require_regular, write_atomic

PAIR_KINDS = ("tone", "gender", "hair", "color", "clock", "moon")
"""How two sprites can be one change apart."""
_HELD_OUT_NAMES, _HELD_OUT_SPRITES, _HELD_OUT_PAIRS = 0.04, 0.08, 0.1
_HAIR = re.compile(
    r"(?:(bald) )?(man|woman|person)(?: with (red hair|curly hair|white hair|blond hair|beard))?"
)
_COLORS = "red orange yellow green blue purple brown black white grey pink"
_COLORED = re.compile(
    rf"((?:light )?(?:{_COLORS.replace(' ', '|')})) (heart|circle|square|book|apple|diamond)"
)
_MOON = re.compile(r"((?:new|full|(?:waxing|waning) (?:crescent|gibbous)|(?:first|last) quarter) moon)")
_CLOCK = re.compile(r"clock at (.*)")


@dataclass(frozen=True)
class Sprite:
    """One picture.

    Attributes:
      code: its Unicode sequence, the stem of its file: "1f468-200d-1f33e-1f3ff".
      base: its name without the tone: "man farmer".
      tone: of its skin: "dark", "light and dark" of two people, "yellow" of who could have another, else "".
      groups: pair kind -> (what its members share, this one's value): {"gender": ("...", "man")}.
    """

    code: str
    base: str
    tone: str = ""
    groups: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """ "man farmer with dark skin"; yellow skin goes without saying."""
        if self.tone in ("", NO_TONE):
            return self.base
        return f"{self.base}{' and' if ' with ' in self.base else ' with'} {self.tone} skin"


@dataclass(frozen=True)
class SpritePair:
    """Two sprites that are one change apart; `value` is what the second has in place of `old_value`."""

    kind: str
    source: int
    target: int
    old_value: str
    value: str


class Catalogue:
    """All sprites: `sprites[i]` is drawn by `pixels[i]`, (64, 64, 4) uint8."""

    def __init__(self, sprites: Sequence[Sprite], pixels: np.ndarray) -> None:
        self.sprites, self.pixels = list(sprites), pixels
        self.by_name = {sprite.name: number for number, sprite in enumerate(self.sprites)}

    @cached_property
    def pairs(self) -> list[SpritePair]:
        """All ordered pairs, by kind and in the order of the sprites."""
        groups: dict[tuple[str, str], list[int]] = {}
        for number, sprite in enumerate(self.sprites):
            for kind, (key, _) in sprite.groups.items():
                groups.setdefault((kind, key), []).append(number)
        return [
            SpritePair(kind, source, target, *(self.sprites[n].groups[kind][1] for n in (source, target)))
            for (kind, _), members in groups.items()
            for source in members
            for target in members
            if source != target
        ]

    def relation(self, wanted: int, found: int) -> str:
        """How one sprite is mistaken for another: "right", a pair kind, or "other"."""
        if wanted == found:
            return "right"
        mine, its = self.sprites[wanted].groups, self.sprites[found].groups
        return next(
            (kind for kind in PAIR_KINDS if kind in mine and mine[kind][0] == its.get(kind, ("",))[0]),
            "other",
        )

    def is_held_out_name(self, number: int) -> bool:
        """Whether no training picture shows any sprite of this base; one with twins stays with them."""
        sprite = self.sprites[number]
        return not sprite.groups.keys() - {"tone"} and _share(f"name {sprite.base}") < _HELD_OUT_NAMES

    def is_held_out_sprite(self, number: int) -> bool:
        """Whether no training picture shows this toned sprite, though it shows its base in other tones."""
        sprite = self.sprites[number]
        toned = sprite.tone not in ("", NO_TONE)
        return (
            toned and not self.is_held_out_name(number) and _share(f"tone {sprite.code}") < _HELD_OUT_SPRITES
        )

    def is_held_out_pair(self, pair: SpritePair) -> bool:
        """Whether training never makes this change; of tones: because it never shows the result."""
        if pair.kind == "tone":
            return self.is_held_out_sprite(pair.target)
        codes = [self.sprites[number].code for number in (pair.source, pair.target)]
        return _share(" ".join(["pair", *codes])) < _HELD_OUT_PAIRS

    @cached_property
    def seen(self) -> list[int]:
        """The sprites that training may show."""
        hidden = (self.is_held_out_name, self.is_held_out_sprite)
        return [n for n in range(len(self.sprites)) if not any(is_hidden(n) for is_hidden in hidden)]

    @cached_property
    def unseen_names(self) -> list[int]:
        """The sprites of held-out bases."""
        return [n for n in range(len(self.sprites)) if self.is_held_out_name(n)]

    def pairs_of(self, held_out: bool) -> list[SpritePair]:
        """The pairs of one side of the split; of both, training shows the first sprite."""
        seen = set(self.seen)
        sides = [
            pair for pair in self.pairs if pair.source in seen and self.is_held_out_pair(pair) == held_out
        ]
        return [pair for pair in sides if held_out and pair.kind == "tone" or pair.target in seen]

    def save(self, path: Path) -> None:
        """Writes the sprites with their names into one .npz file."""
        index = np.frombuffer(json.dumps([asdict(sprite) for sprite in self.sprites]).encode(), np.uint8)

        def write(temporary: Path) -> None:
            with temporary.open("wb") as stream:
                np.savez_compressed(stream, pixels=self.pixels, index=index)

        write_atomic(path, write)

    @classmethod
    def load(cls, path: str | Path) -> Catalogue:
        """Reads what `save` wrote.

        Raises:
          UserError: another kind of file.
        """
        require_regular(path, "a file of sprites")
        try:
            with np.load(path, allow_pickle=False) as content:
                pixels, index = content["pixels"], json.loads(content["index"].tobytes())
            groups = ({k: tuple(v) for k, v in entry["groups"].items()} for entry in index)
            sprites = [Sprite(**entry | {"groups": kept}) for entry, kept in zip(index, groups, strict=True)]
            if pixels.shape != (len(sprites), *pixels.shape[1:]) or pixels.shape[-1:] != (4,):
                raise ValueError(f"pixels of shape {pixels.shape} for {len(sprites)} sprites")
        except Exception as error:  # NumPy's and zip's parsers raise many unrelated types
            raise UserError(
                f"{path}: not the sprites that prepare_emoji.py writes ({error}); prepare the set again"
            ) from None
        return cls(sprites, pixels)


def build_catalogue(package: EmojiPackage) -> Catalogue:
    """Names the package's sprites; of pictures that are equal, or of equal names, one is kept.

    Raises:
      UserError: a picture is missing or damaged, or nothing has a name.
    """
    sprites, pixels, seen_pictures, seen_names = [], [], set(), set()
    for sprite, image in _named_sprites(package):
        drawn = package.sprite(image)
        picture = hashlib.blake2b(drawn.tobytes(), digest_size=16).digest()
        if sprite.name in seen_names or picture in seen_pictures or not drawn[..., 3].any():
            continue
        seen_names.add(sprite.name)
        seen_pictures.add(picture)
        sprites.append(sprite)
        pixels.append(drawn)
    if not sprites:
        raise UserError("the package holds no emoji that has a name")
    return Catalogue(sprites, np.stack(pixels))


def _named_sprites(package: EmojiPackage) -> Iterator[tuple[Sprite, str]]:
    """Each sprite and its picture; the shortest names first, which decides between equal pictures."""
    named = [(entry, name) for entry in package.entries if (name := clean_name(entry))]
    named = _with_neutral_names(named)
    for entry, base in sorted(named, key=lambda pair: len(pair[1])):
        variations = entry.get("skin_variations") or {}
        groups = _groups(entry, base)
        tone = NO_TONE if variations else ""
        yield (
            _member(Sprite(entry["image"].removesuffix(".png"), base, tone, groups), bool(variations)),
            entry["image"],
        )
        for modifiers, variation in variations.items():
            words = [TONES[code] for code in modifiers.upper().split("-") if code in TONES]
            tone = " and ".join(dict.fromkeys(words)) if words else ""
            code = variation["image"].removesuffix(".png")
            yield _member(Sprite(code, base, tone, groups), True), variation["image"]


def _member(sprite: Sprite, has_tones: bool) -> Sprite:
    """Adds the group of tones, and lets the others hold one tone each: a change changes one thing."""
    groups = {kind: (f"{key}, {sprite.tone}", value) for kind, (key, value) in sprite.groups.items()}
    if has_tones:
        groups = {"tone": (sprite.base, sprite.tone)} | groups
    return replace(sprite, groups=groups)


def _groups(entry: dict[str, Any], base: str) -> dict[str, tuple[str, str]]:
    groups = {}
    if match := _HAIR.fullmatch(base):
        said = match[1] or match[3] or "plain hair"
        # Drawn as busts or as heads: what should change is the hair, not how near somebody stands.
        framing = "head" if said in ("plain hair", "blond hair", "beard") else "bust"
        groups["hair"] = (f"{match[2]}, {framing}", said)
    for kind, pattern in (("color", _COLORED), ("moon", _MOON), ("clock", _CLOCK)):
        if match := pattern.fullmatch(base):
            groups[kind] = (match[2] if kind == "color" else kind, match[1])
    if entry.get("gender"):
        groups["gender"] = (entry["gender"][1], entry["gender"][0])
    return groups


def _with_neutral_names(named: list[tuple[dict[str, Any], str]]) -> list[tuple[dict[str, Any], str]]:
    """Marks whom there is of several genders, and names those of none after the man beside them."""
    together: dict[str, dict[str, tuple[dict[str, Any], str]]] = {}
    for entry, name in named:
        gender, key = gender_of(entry["unified"])
        if entry["category"] == "People & Body":
            together.setdefault(key, {}).setdefault(gender, (entry, name))
    renamed, genders = {}, {}
    for key, members in together.items():
        if len(members) > 1:
            genders |= {id(entry): (gender, key) for gender, (entry, _) in members.items()}
        if "man" in members and "person" in members:
            entry, own = members["person"]
            renamed[id(entry)] = neutral_name(members["man"][1], own)
    return [
        (entry | {"gender": genders.get(id(entry))}, renamed.get(id(entry), name)) for entry, name in named
    ]


def _share(text: str) -> float:
    """A number in [0, 1) that the text alone decides."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
