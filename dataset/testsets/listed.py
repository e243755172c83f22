"""What the lists of the test sets say: sessions of turns, by the names of their files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ListedTurn:
    """One edit of a session: the names that the list gives its files, and the texts that are known.

    `caption` describes the result (MagicBrush: the local description), `input_caption` the image before.
    """

    number: int
    input: str
    output: str
    caption: str | None = None
    instruction: str | None = None
    input_caption: str | None = None
    mask: str | None = None


@dataclass(frozen=True)
class Session:
    """An image and the edits applied to it one after the other."""

    id: str
    turns: tuple[ListedTurn, ...]
