"""The work of prepare_emoji.py, whose head explains it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from dataset.emoji.catalogue import Catalogue, build_catalogue
from dataset.emoji.edits import EmojiConfig, EmojiEdits, EmojiExample, portrait, random_background
from dataset.emoji.flags import PrepareEmojiConfig
from dataset.emoji.licence import require_free, write_licences
from dataset.emoji.package import read_package
from dataset.emoji.scenes import EmojiScene, render
from dataset.emoji.verifier import SPRITES
from dataset.prepare.drawn_set import DrawnSet
from dataset.prepare.output import log
from dataset.shapes.writers import (
    contact_sheet,
    encode_png,
    merge_train_rows,
    write_emu,
    write_magicbrush,
    write_pair,
)
from runtime.pictures import save_picture

EXAMPLES, SCENES = "emoji", "scenes.json"
DRAWING_GROUPS = ("seen", "new_tone", "new_name")
_SIDES, _PAIRS, _STICKERS, _TESTS, _NAMES, _PORTRAITS, _DRAWINGS = range(7)  # streams of random numbers
_TRIES = 50


def prepare_emoji(config: PrepareEmojiConfig) -> None:
    """Writes the whole set, or what an interrupted run left undone.

    Raises:
      UserError: the package cannot be used, the folder holds something else, or the disk is too small.
    """
    package, folder = read_package(config.package), Path(config.output_dir)
    require_free(package)
    catalogue = build_catalogue(package)
    log.info(
        "%s: %d emoji of %d names; training shows %d",
        config.package,
        len(catalogue.sprites),
        len({sprite.base for sprite in catalogue.sprites}),
        len(catalogue.seen),
    )
    num_portraits = config.num_portraits * len(catalogue.seen)
    drawn_set = DrawnSet(
        name="emoji",
        folder=folder,
        identity=config.identity | {"sprites": _fingerprint(catalogue)},
        num_train=config.num_train + num_portraits,
        num_files=2 * config.num_train + num_portraits + 3 * config.num_test + config.num_emu,
        file_bytes=2 * config.image_size**2,
        write_chunk=partial(_write_chunk, config),
        merge_rows=_merge_rows,
        write_rest=partial(_write_tests, config, catalogue),
        write_first=lambda: (catalogue.save(folder / SPRITES), write_licences(package, folder)),
    )
    drawn_set.write(config.num_workers)


def _fingerprint(catalogue: Catalogue) -> str:
    names = "\n".join(sprite.name for sprite in catalogue.sprites)
    return hashlib.blake2b(catalogue.pixels.tobytes() + names.encode(), digest_size=8).hexdigest()


@lru_cache(maxsize=1)
def _edits(sprites: Path, config: EmojiConfig) -> EmojiEdits:
    """Read once a process."""
    return EmojiEdits(Catalogue.load(sprites), config)


def _write_chunk(config: PrepareEmojiConfig, folder: Path, indices: range) -> list[dict[str, Any]]:
    edits = _edits(folder.parent / SPRITES, config.emoji)
    draw = partial(_draw, edits.catalogue)
    rows = []
    for index in indices:
        if index >= config.num_train:
            rows.append(_write_portrait(config, folder, edits, index - config.num_train))
            continue
        example = train_example(edits, config.seed, index)
        rows.append(write_pair(folder, index, example, config.image_size, draw, EmojiScene.caption))
    return rows


def train_example(edits: EmojiEdits, seed: int, index: int) -> EmojiExample:
    """The training pair `index`: natural, or of stickers."""
    is_natural = np.random.default_rng([seed, _SIDES, index]).random() < edits.config.natural_share
    example = edits.natural([seed, _PAIRS, index]) if is_natural else None
    return example or edits.stickers([seed, _STICKERS, index])[0]


def _draw(catalogue: Catalogue, scene: EmojiScene, image_size: int) -> np.ndarray:
    return render(scene, image_size, catalogue)


def _write_portrait(
    config: PrepareEmojiConfig, folder: Path, edits: EmojiEdits, index: int
) -> dict[str, Any]:
    """Each emoji alone, round by round, on another background each time."""
    seen = edits.catalogue.seen
    name = edits.catalogue.sprites[seen[index % len(seen)]].name
    rng = np.random.default_rng([config.seed, _PORTRAITS, index])
    scene = portrait(name, random_background(rng, config.emoji))
    pixels = render(scene, config.image_size, edits.catalogue)
    file = f"images/portrait_{index:06d}.png"
    (folder / file).write_bytes(encode_png(pixels))
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()
    return {"edit": None, "t2i": [{"image_path": file, "text": scene.caption()}], "digests": [digest]}


def _merge_rows(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    lists = merge_train_rows(rows)
    return lists | {"editing.jsonl": [line for line in lists["editing.jsonl"] if line is not None]}


def _write_tests(config: PrepareEmojiConfig, catalogue: Catalogue) -> None:
    folder, edits = Path(config.output_dir), EmojiEdits(catalogue, config.emoji)
    draw = partial(_draw, catalogue)
    sessions = draw_test_sessions(edits, config.seed, config.num_test)
    examples = [example for session in sessions.values() for example in session]
    written = {"test": sessions}
    if catalogue.unseen_names:
        written["test_names"] = _name_sessions(edits, config.seed, config.num_test // 5)
    for name, chosen in written.items():
        write_magicbrush(
            folder / name, chosen, config.image_size, EmojiScene.caption, draw=draw, examples_name=EXAMPLES
        )
        log.info("%s: %d edits", folder / name, sum(map(len, chosen.values())))
    emu = examples[: config.num_emu]
    write_emu(
        folder / "test_emu", emu, config.image_size, EmojiScene.caption, draw=draw, examples_name=EXAMPLES
    )
    _write_drawings(config, folder / "drawings", edits)
    shown = [
        *examples[:12],
        *[example for example in examples if example.edit.kind in "add remove move".split()],
    ]
    save_picture(
        contact_sheet(shown[:24], draw_scene=draw, image_size=config.image_size), folder / "preview.png"
    )


def draw_test_sessions(edits: EmojiEdits, seed: int, num_edits: int) -> dict[str, list[EmojiExample]]:
    """Held-out sessions by id, `num_edits` different turns in all; natural ones have one turn.

    Those of stickers have 1, 2 and 3 in rotation.
    """
    natural = _distinct(
        lambda n: [example] if (example := edits.natural([seed, _TESTS, 0, n], held_out=True)) else [],
        round(num_edits * edits.config.natural_share),
    )
    of_stickers = _distinct(
        lambda n: edits.stickers([seed, _TESTS, 1, n], turns=1 + n % 3, held_out=True),
        num_edits - sum(map(len, natural)),
    )
    mixed = [*natural, *of_stickers]
    order = np.random.default_rng([seed, _TESTS]).permutation(len(mixed))
    return {f"{number:06d}": mixed[index] for number, index in enumerate(order)}


def _name_sessions(edits: EmojiEdits, seed: int, num_edits: int) -> dict[str, list[EmojiExample]]:
    names = edits.catalogue.unseen_names
    sessions = _distinct(lambda n: edits.stickers([seed, _NAMES, n], held_out=True, names=names), num_edits)
    return {f"{number:06d}": session for number, session in enumerate(sessions)}


def _distinct(draw: Callable[[int], list[EmojiExample]], num_edits: int) -> list[list[EmojiExample]]:
    """Sessions that `draw` makes of numbers, of that many turns in all, none twice; fewer if it runs dry."""
    sessions: list[list[EmojiExample]] = []
    seen: set[tuple[str, str]] = set()
    for number in range(_TRIES * num_edits):
        left = num_edits - len(seen)
        session = draw(number)[:left]
        keys = {example.key() for example in session}
        if session and len(keys) == len(session) and not keys & seen:
            seen |= keys
            sessions.append(session)
        if len(seen) == num_edits:
            break
    return sessions


def _write_drawings(config: PrepareEmojiConfig, folder: Path, edits: EmojiEdits) -> None:
    """Portraits to draw by name: what training showed, tones it did not show, names it did not show."""
    catalogue, lines, scenes = edits.catalogue, [], []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    numbers = {
        "seen": catalogue.seen,
        "new_tone": [n for n in range(len(catalogue.sprites)) if catalogue.is_held_out_sprite(n)],
        "new_name": catalogue.unseen_names,
    }
    for stream, group in enumerate(DRAWING_GROUPS):
        rng = np.random.default_rng([config.seed, _DRAWINGS, stream])
        count = min(max(config.num_test // 5, 1), len(numbers[group]))
        for number in rng.permutation(numbers[group])[:count]:
            scene = portrait(catalogue.sprites[int(number)].name, random_background(rng, config.emoji))
            file = f"images/{len(lines):06d}.png"
            (folder / file).write_bytes(encode_png(render(scene, config.image_size, catalogue)))
            lines.append({"image_path": file, "text": scene.caption()})
            scenes.append({"group": group, "scene": scene.to_dict()})
    (folder / "t2i.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / SCENES).write_text(json.dumps(scenes, indent=1))
