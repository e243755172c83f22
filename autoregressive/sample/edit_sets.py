"""The edits that the test sets ask for, as jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image

from autoregressive.editing.choices import AUTO
from autoregressive.sample.edit_run import KeyedEdit, files_sha256
from dataset.batches import Text, load_text
from dataset.records.images import ImageSource
from dataset.records.parquet import ParquetImage
from dataset.testsets.emu_edit import EmuItem
from dataset.testsets.magicbrush import Turn, iterate_turns, multi_turn_name, single_turn_name
from runtime.errors import UserError
from runtime.files import file_sha256

Sessions = dict[str, list[Turn]]
EMU_RESAMPLING = Image.Resampling.BICUBIC
"""Of Emu Edit's sources, as published; those of all else are bilinear."""


def magicbrush_text(turn: Turn, descriptions: dict[str, dict[str, str]] | None, width: int | None) -> Text:
    """What the model is told in one turn.

    Args:
      descriptions: {session: {output file: text}}, to tell it what the result shows; None = the instruction.
      width: of the instruction's features, where the turn has them; None = use its words.
    """
    if descriptions is None:
        origin = f"session {turn.session_id} turn {turn.number}"
        return load_text(turn.instruction, turn.text_feature_path, width, origin)
    try:
        return descriptions[turn.session_id][turn.output_path.name]
    except KeyError as error:
        raise UserError(
            f"the descriptions have no text for {turn.output_path.name} of session {turn.session_id}"
        ) from error


def magicbrush_rounds(
    sessions: Sessions,
    turns: str,
    images: Path,
    *,
    full_mask: bool,
    descriptions: dict[str, dict[str, str]] | None,
    width: int | None,
) -> list[list[KeyedEdit]]:
    """Rounds of edits: those of one round need only the results of the rounds before.

    The first holds every turn edited alone (`<id>_1`, `<id>_inde_k`), the others the later turns of the
    sessions edited one after the other (`<id>_iter_k`).

    Args:
      turns: "single" (each alone), "multi" (one after the other) or "both".
      images: folder of the results.
      full_mask: regenerate every cell, whatever the masks say.
      descriptions, width: see `magicbrush_text`.
    """

    def job(turn: Turn, source: Path, namer: Callable[[str, int], str]) -> KeyedEdit:
        mask = None if full_mask else turn.mask_path
        text = partial(magicbrush_text, turn, descriptions, width)
        name = namer(turn.session_id, turn.number)
        return KeyedEdit(f"{turn.session_id}/{name}", source, text, mask)

    first, later = [], []
    for turn in iterate_turns(sessions):
        (first if turn.number == 1 else later).append(job(turn, turn.input_path, single_turn_name))
    rounds = [first + (later if turns != "multi" else [])]
    longest = max(map(len, sessions.values()), default=1) if turns != "single" else 1
    for number in range(2, longest + 1):
        next_jobs = []
        for session_id, session in sessions.items():
            if number <= len(session):
                before = images / session_id / multi_turn_name(session_id, number - 1)
                next_jobs.append(job(session[number - 1], before, multi_turn_name))
        rounds.append(next_jobs)
    return rounds


def magicbrush_sha256(sessions: Sessions, json_files: Sequence[Path]) -> str:
    """Identifies a test set by the content of all its files."""
    files = [*json_files, *(path for turn in iterate_turns(sessions) for path in turn.paths())]
    return files_sha256(map(file_sha256, files))


def emu_jobs(items: Sequence[EmuItem]) -> list[KeyedEdit]:
    """One edit an item, `<idx>.png`: Emu Edit has no masks, so every cell is regenerated."""
    return [
        KeyedEdit(f"{item.idx}.png", item.source_path, partial(_instruction, item), None) for item in items
    ]


def with_output_caption(item: EmuItem) -> EmuItem:
    """The same item, for an editor that is told what the result shows."""
    if item.output_caption is None:
        raise UserError(f"{item.source_path}: item {item.idx} has no output_caption to tell the model")
    return replace(item, instruction=item.output_caption)


def emu_sha256(items: Sequence[EmuItem]) -> str:
    """See `edits_sha256`."""
    return edits_sha256([(item.idx, item.instruction, item.source_path) for item in items])


def edits_sha256(edits: Sequence[tuple[int | str, str, ImageSource]]) -> str:
    """Identifies edits (name, instruction, source): the texts, and the content of the sources' files."""
    files = dict.fromkeys(s.path if isinstance(s, ParquetImage) else s for _, _, s in edits)
    texts = (f"{name}\0{instruction}\0" for name, instruction, _ in edits)
    return files_sha256([*texts, *map(file_sha256, files)])


def without_masks(rounds: Sequence[Sequence[KeyedEdit]]) -> list[list[KeyedEdit]]:
    """The same edits, each in the region that its instruction speaks of."""
    return [[replace(job, mask=AUTO) for job in jobs] for jobs in rounds]


def keys_of(rounds: Sequence[Sequence[KeyedEdit]]) -> set[str]:
    return {job.key for jobs in rounds for job in jobs}


def _instruction(item: EmuItem) -> str:
    return item.instruction
