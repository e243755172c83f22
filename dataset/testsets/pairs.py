"""Which generated image is compared with which ground-truth image, by MagicBrush's names.

See `dataset.testsets.magicbrush` for the names. Sessions come from a JSON file, so the result cannot depend
on the order in which a file system lists a folder, nor on "iter_10" sorting before "iter_2". Listings serve
one purpose: naming superfluous files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.testsets.folders import image_names, name_differences, require_folder
from dataset.testsets.listed import ListedTurn, Session
from dataset.testsets.magicbrush import multi_turn_name, output_number, single_turn_name
from runtime.errors import UserError

FINAL_TURN = "final_turn"
ALL_TURN = "all_turn"
PROTOCOLS = (FINAL_TURN, ALL_TURN)


@dataclass(frozen=True)
class GeneratedEdit:
    """One generated image and the image that was edited to make it, if that is known.

    `key` is its name where the test set has no sessions.
    """

    generated: Path
    input: Path | None
    key: str | None = None

    @property
    def name(self) -> str:
        """`<id>/<file>`, or its key: that of this edit in samples.json and in the regions folder."""
        if self.key is not None:
            return self.key
        return f"{self.generated.parent.name}/{self.generated.name}"


@dataclass(frozen=True)
class ScoredPair:
    """A generated image, the ground truth it is compared with, and how it came about.

    `edits` are the edits between `source` and `generated`: one in the single-turn protocol, all the turns of
    the session in the multi-turn protocol. `source` is the image that "copy the source" would hand in, if it
    is known, and `ceiling` is where, in a folder of images passed through the tokenizer, the target's twin
    stands.
    """

    protocol: str
    session: str
    turn: ListedTurn
    generated: Path
    target: Path
    source: Path | None
    edits: tuple[GeneratedEdit, ...]
    ceiling: str

    @property
    def name(self) -> str:
        return f"{self.protocol} {self.session} turn {self.turn.number}"


def find_pairs(
    sessions: Sequence[Session],
    generated_path: str | Path,
    gt_path: str | Path,
    protocols: Sequence[str] = PROTOCOLS,
) -> dict[str, list[ScoredPair]]:
    """Pairs generated images with ground truth, per protocol.

    Args:
      sessions: what `read_listed_sessions` returned.
      generated_path: folder of generated images.
      gt_path: folder of ground-truth images; sessions it holds beyond `sessions` are not evaluated.
      protocols: "final_turn" (multi-turn: the last image of every session) and/or "all_turn" (single-turn:
        every edit from its ground-truth input).
    Raises:
      UserError: naming every generated or ground-truth file that is missing, and every generated file, or
        ground-truth output of a listed session, that the JSON does not mention.
    """
    generated_path, gt_path = Path(generated_path), Path(gt_path)
    check_ground_truth(sessions, gt_path)
    require_folder(generated_path)
    _check_generated_files(sessions, generated_path, protocols)
    builders = {FINAL_TURN: _final_turn_pairs, ALL_TURN: _all_turn_pairs}
    return {
        protocol: [
            pair
            for session in sessions
            for pair in builders[protocol](session, generated_path / session.id, gt_path / session.id)
        ]
        for protocol in protocols
    }


def _all_turn_pairs(session: Session, generated: Path, gt: Path) -> list[ScoredPair]:
    pairs = []
    for turn in session.turns:
        image = generated / single_turn_name(session.id, turn.number)
        source, target = gt / turn.input, gt / turn.output
        edits = (GeneratedEdit(image, source),)
        pairs.append(
            ScoredPair(
                ALL_TURN, session.id, turn, image, target, source, edits, f"{session.id}/{turn.output}"
            )
        )
    return pairs


def _final_turn_pairs(session: Session, generated: Path, gt: Path) -> list[ScoredPair]:
    source = gt / session.turns[0].input
    edits = []
    for turn in session.turns:
        edit_input = edits[-1].generated if edits else source
        edits.append(GeneratedEdit(generated / multi_turn_name(session.id, turn.number), edit_input))
    last = session.turns[-1]
    image, target, ceiling = edits[-1].generated, gt / last.output, f"{session.id}/{last.output}"
    return [ScoredPair(FINAL_TURN, session.id, last, image, target, source, tuple(edits), ceiling)]


def _check_generated_files(sessions: Sequence[Session], folder: Path, protocols: Sequence[str]) -> None:
    namers = {FINAL_TURN: multi_turn_name, ALL_TURN: single_turn_name}
    required, known = set(), set()
    for session in sessions:
        for turn in session.turns:
            for protocol, namer in namers.items():
                name = f"{session.id}/{namer(session.id, turn.number)}"
                known.add(name)
                if protocol in protocols:
                    required.add(name)
    present = image_names(folder)
    missing, extra = required - present, present - known
    if missing or extra:
        message = f"{folder}: {len(required)} generated images expected, {len(present)} found."
        message += name_differences(missing, extra, "the sessions file")
        if missing and (folder / "images").is_dir():
            message += f" Did you mean {folder / 'images'}?"
        raise UserError(message)


def check_ground_truth(sessions: Sequence[Session], gt_path: str | Path) -> None:
    """Checks that the folder of ground truth holds what the sessions say.

    Raises:
      UserError: as `find_pairs`.
    """
    folder = require_folder(gt_path)
    missing, extra = set(), set()
    for session in sessions:
        required = {name for turn in session.turns for name in (turn.input, turn.output)}
        present = {file.name for file in (folder / session.id).glob("*")}
        outputs = {name for name in present if output_number(session.id, name) is not None}
        missing |= {f"{session.id}/{name}" for name in required - present}
        extra |= {f"{session.id}/{name}" for name in outputs - required}
    if missing or extra:
        differences = name_differences(missing, extra, "the sessions file")
        raise UserError(f"{folder}: the ground truth does not match the sessions file.{differences}")
