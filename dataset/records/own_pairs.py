"""Pairs of one's own in a folder: found by their names, all mistakes told at once.

    source/cat.png  edited/cat.png  mask/cat.png  prompts.csv        with the columns name,prompt
    cat_source.png  cat_edited.png  cat_mask.png  cat.txt            all in one folder

Suffixes may differ; masks may be missing (then all of the picture may change). Texts stand in `prompts.csv`
(or .tsv), which may have a column `caption` too, what the result shows; or in NAME.txt, beside the pictures
or in `prompts/`. Nothing is left out silently: a file that belongs to no pair is a mistake, too.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataset.records.images import load_image
from dataset.records.masks import load_edit_region, marked
from runtime.errors import UserError
from runtime.files import without_mac_metadata
from runtime.logging import get_logger
from runtime.texts import read_text

log = get_logger(__name__)
ROLES = ("source", "edited", "mask")
TABLES = ("prompts.csv", "prompts.tsv")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
SHOWN = 40
"""Mistakes that a message names; the others are counted."""
_FLAT = re.compile(rf"(?P<name>.+)[_-](?P<role>{'|'.join(ROLES)})")
_NUM_THREADS = 4
_OTHERWISE = 30  # of 255: pixels that differ by more were changed, not only saved anew


@dataclass(frozen=True)
class OwnPair:
    """A pair: its name, its files (no mask: all may change), what to do, and what the result shows."""

    name: str
    source: Path
    edited: Path
    mask: Path | None
    prompt: str
    caption: str | None = None


@dataclass
class _Found:
    """What a folder holds by name, and what is wrong with it."""

    pictures: dict[str, dict[str, Path]] = field(default_factory=dict)
    texts: dict[str, tuple[str, str | None, str]] = field(default_factory=dict)  # prompt, caption, where
    problems: list[str] = field(default_factory=list)

    def add_picture(self, name: str, role: str, file: Path) -> None:
        name = _composed(name)
        files = self.pictures.setdefault(name, {})
        if role in files:
            self.problems.append(f"{files[role]} and {file} are both the {role} of {name!r}: keep one")
        files[role] = file

    def add_text(self, name: str, prompt: str, caption: str | None, where: str) -> None:
        name = _composed(name)
        if name in self.texts:
            self.problems.append(
                f"{self.texts[name][2]} and {where} both say a prompt for {name!r}: keep one"
            )
        elif not prompt.strip():
            self.problems.append(f"{where}: says nothing: write what is to be done")
        self.texts[name] = prompt.strip(), (caption or "").strip() or None, where


def _composed(name: str) -> str:
    """A name with each accented letter as one: Macs give files names of letters and accents apart."""
    return unicodedata.normalize("NFC", name)


def find_own_pairs(folder: str | Path) -> list[OwnPair]:
    """The pairs of a folder in the order of their names; pictures are not opened, see `check_own_pairs`.

    Raises:
      UserError: names every file that is missing, there twice or of no pair, each with what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; it should hold your pairs, see docs/own_data.md")
    found = _Found()
    _find_pictures(folder, found)
    _find_texts(folder, found)
    if not found.pictures and not found.problems:
        raise UserError(
            f"{folder}: no pairs in it; put pictures into {folder}/source and {folder}/edited (and masks "
            f"into {folder}/mask) under the same names, and lines name,prompt into {folder}/{TABLES[0]}"
        )
    pairs = list(_pairs(folder, found))
    _raise(folder, found.problems)
    return pairs


def holds_own_pairs(folder: Path) -> bool:
    """Whether a folder looks like one of pairs, not like one of results, which may be called x_edited.png."""
    named = (_FLAT.fullmatch(file.stem) for file in _files(folder) if file.suffix.lower() in SUFFIXES)
    return (folder / "edited").is_dir() or {"source", "edited"} <= {m["role"] for m in named if m}


def check_own_pairs(folder: str | Path) -> tuple[list[OwnPair], list[str]]:
    """`find_own_pairs`, and looks at every picture.

    Returns:
      The pairs; and what is odd of them, but no mistake, a sentence each.
    Raises:
      UserError: as `find_own_pairs`, and names every picture that cannot be used.
    """
    pairs = find_own_pairs(folder)
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        looked_at = list(pool.map(_look, pairs))
    _raise(Path(folder), [problem for problem, _ in looked_at if problem])
    return pairs, [note for _, note in looked_at if note]


def tell(folder: str | Path, pairs: list[OwnPair], notes: list[str]) -> None:
    """Says how many pairs were found, and what is odd of them."""
    masked, captioned = (sum(getattr(p, name) is not None for p in pairs) for name in ("mask", "caption"))
    words = "%s: %d pairs, all in order; %d with a mask, %d with a caption of the result"
    log.info(words, folder, len(pairs), masked, captioned)
    for note in notes[:SHOWN]:
        log.warning("%s", note)
    if len(notes) > SHOWN:
        log.warning("and %d more", len(notes) - SHOWN)


def list_line(pair: OwnPair) -> dict[str, str]:
    """The line of an UltraEdit list, as stage 2 reads it, with absolute paths."""
    line = {"file_name": str(pair.source.resolve()), "edited_image": str(pair.edited.resolve())}
    line["mask_image"] = "NONE" if pair.mask is None else str(pair.mask.resolve())
    line["edit_prompt"] = pair.prompt
    return line if pair.caption is None else line | {"output_caption": pair.caption}


def _find_pictures(folder: Path, found: _Found) -> None:
    in_folders = [role for role in ROLES if (folder / role).is_dir()]
    for role in in_folders:
        for file in _files(folder / role):
            if file.suffix.lower() in SUFFIXES:
                named = _FLAT.fullmatch(file.stem)
                name = named["name"] if named and named["role"] == role else file.stem
                found.add_picture(name, role, file)
            elif file.suffix.lower() != ".txt" or role != "source":
                found.problems.append(f"{file}: no picture ({', '.join(SUFFIXES)}): move it away")
    _refuse_folders_that_are_not_read(folder, in_folders, found)
    for file in _files(folder):
        if file.suffix.lower() not in SUFFIXES:
            continue
        if named := _FLAT.fullmatch(file.stem):
            found.add_picture(named["name"], named["role"], file)
        else:
            names = " or ".join(f"{file.stem}_{role}{file.suffix}" for role in ROLES)
            found.problems.append(
                f"{file}: its name does not say what it is: call it {names}, or move it away"
            )


def _refuse_folders_that_are_not_read(folder: Path, roles: list[str], found: _Found) -> None:
    places = [place for place in _folders(folder) if place.name not in (*ROLES, "prompts")]
    places += [place for role in roles for place in _folders(folder / role)]
    for place in places:
        if any(file.suffix.lower() in SUFFIXES for file in _files(place)):
            found.problems.append(
                f"{place}: its pictures are not read: call it {', '.join(ROLES)}, or move it away"
            )


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


def _find_texts(folder: Path, found: _Found) -> None:
    for name in TABLES:
        if (folder / name).is_file():
            _read_table(folder / name, found)
    for place in (folder, folder / "prompts", folder / "source"):
        for file in _files(place) if place.is_dir() else ():
            if file.suffix.lower() == ".txt":
                try:
                    found.add_text(file.stem, read_text(file), None, str(file))
                except (UserError, OSError) as error:
                    found.problems.append(f"{file}: cannot be read: {error}")


def _read_table(file: Path, found: _Found) -> None:
    try:
        text = read_text(file)
        rows = csv.reader(io.StringIO(text), delimiter="\t" if file.suffix == ".tsv" else ",", strict=True)
        head = [column.strip().lower() for column in next(rows, [])]
        if missing := {"name", "prompt"} - set(head):
            has = ", ".join(filter(None, head)) or "nothing"
            raise UserError(f"its first line must name the columns name,prompt (and caption); it has {has}"
                            f", without {' and '.join(sorted(missing))}")  # fmt: skip
        if twice := [column for column in ("name", "prompt", "caption") if head.count(column) > 1]:
            raise UserError(f"its first line names the column {twice[0]} twice; keep one of them")
        for row in rows:
            where = f"{file} line {rows.line_num}"
            if not any(part.strip() for part in row):
                continue
            if len(row) > len(head):
                found.problems.append(
                    f"{where}: has more fields than columns: put quotes around a text with commas"
                )
                continue
            values = dict(zip(head, row, strict=False))
            name = Path(values.get("name", "").strip()).name
            name = Path(name).stem if Path(name).suffix.lower() in SUFFIXES else name
            found.add_text(name, values.get("prompt", ""), values.get("caption"), where)
    except (UserError, OSError, csv.Error) as error:
        found.problems.append(f"{file}: cannot be read: {error}")


def _pairs(folder: Path, found: _Found) -> Iterator[OwnPair]:
    """The whole pairs; what others lack is added to the problems."""
    for name in sorted(found.pictures, key=_natural):
        files = found.pictures[name]
        some = next(iter(files.values()))
        lacking = [role for role in ROLES[:2] if role not in files]
        if lacking:
            found.problems += [f"{some}: has no {role} picture of the same name: add it, or move it away"
                               for role in lacking]  # fmt: skip
        if name not in found.texts:
            found.problems.append(f"{some}: has no prompt: add a line {name},... to {folder / TABLES[0]}")
        elif not lacking:
            prompt, caption, _ = found.texts[name]
            yield OwnPair(name, files["source"], files["edited"], files.get("mask"), prompt, caption)
    for name, (_, _, where) in found.texts.items():
        if name not in found.pictures:
            found.problems.append(f"{where}: there are no pictures called {name!r}: add them, or take it out")


def _look(pair: OwnPair) -> tuple[str | None, str | None]:
    """What is wrong with the pictures of a pair, and what is odd."""
    try:
        source, edited = (np.asarray(load_image(path)) for path in (pair.source, pair.edited))
        if source.shape != edited.shape:
            sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (edited, source)]
            return f"{pair.edited}: is {sizes[0]}, its source {sizes[1]}: save both at one size", None
        differs = np.abs(source.astype(np.int16) - edited).max(axis=2) > _OTHERWISE
        if not differs.any():
            return (
                f"{pair.edited}: shows what its source shows: there is nothing to learn, leave it out",
                None,
            )
        if pair.mask is None:
            return None, None
        region = marked(load_edit_region(pair.mask, source.shape[1::-1])).numpy()
    except UserError as error:
        return str(error), None
    if not region.any():
        return f"{pair.mask}: marks nothing: paint what changes white, the rest black", None
    outside = differs & ~region
    if outside.sum() > 0.01 * (~region).sum():
        share = outside.sum() / (~region).sum()
        return None, f"{pair.mask}: {share:.0%} of what lies outside of it differs too, and is not learned"
    return None, None


def _files(folder: Path) -> list[Path]:
    files = (file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    return without_mac_metadata(files)


def _natural(name: str) -> list[int | str]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _raise(folder: Path, problems: Iterable[str]) -> None:
    if problems := list(problems):
        rest = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        shown = "\n  ".join(problems[:SHOWN])
        raise UserError(f"{folder}: {len(problems)} thing(s) to mend:\n  {shown}{rest}")
