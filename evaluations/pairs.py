"""Which generated image is compared with which ground-truth image (MagicBrush naming).

Ground truth, <gt>/<id>/:
  <id>-input.png, <id>-outputK.png
Generated, <generated>/<id>/:
  <id>_1.png        turn 1
  <id>_inde_K.png   turn K >= 2, an edit of the ground truth of turn K - 1 (single-turn)
  <id>_iter_K.png   turn K >= 2, an edit of the generated image of turn K - 1 (multi-turn)

Sessions come from a JSON file, so the result cannot depend on the order in which a file system lists a
folder, nor on "iter_10" sorting before "iter_2". Listings serve one purpose: naming superfluous files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import UserError
from runtime.files import without_mac_metadata
from runtime.texts import read_text

FINAL_TURN = "final_turn"
ALL_TURN = "all_turn"
PROTOCOLS = (FINAL_TURN, ALL_TURN)

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
_MAX_NAMES = 10


@dataclass(frozen=True)
class Turn:
    """One edit of a session: ground-truth file names, and the texts that are known.

    `caption` describes the result (MagicBrush: the local description), `input_caption` the image before.
    """

    number: int
    input: str
    output: str
    caption: str | None = None
    instruction: str | None = None
    input_caption: str | None = None


@dataclass(frozen=True)
class Session:
    """An image and the edits applied to it one after the other."""

    id: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Edit:
    """One generated image and the image that was edited to make it."""

    generated: Path
    input: Path

    @property
    def name(self) -> str:
        """`<id>/<file>`: the key of this edit in samples.json and in the regions folder."""
        return f"{self.generated.parent.name}/{self.generated.name}"


@dataclass(frozen=True)
class Pair:
    """A generated image, the ground truth it is compared with, and how it came about.

    `edits` are the edits between `source` and `generated`: one in the single-turn protocol, all the turns of
    the session in the multi-turn protocol. `source` is the image that "copy the source" would hand in, and
    `ceiling` is where, in a folder of images passed through the tokenizer, the target's twin stands.
    """

    protocol: str
    session: str
    turn: Turn
    generated: Path
    target: Path
    source: Path
    edits: tuple[Edit, ...]
    ceiling: str

    @property
    def name(self) -> str:
        return f"{self.protocol} {self.session} turn {self.turn.number}"


def load_sessions(path: str | Path) -> list[Session]:
    """Reads edit_sessions.json ({id: [{input, output}]}) or local_descriptions.json ({id: {file: text}}).

    Sessions keep the order of the file; turns are in numeric order.

    Raises:
      UserError: if the file is missing, is not JSON, or does not describe turns 1..n of every session.
    """
    path = Path(path)
    text = read_text(path, "give edit_sessions.json or local_descriptions.json")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected an object {{session id: turns}} with at least one session")
    return [_parse_session(path, session_id, turns) for session_id, turns in content.items()]


def find_pairs(
    sessions: Sequence[Session],
    generated_path: str | Path,
    gt_path: str | Path,
    protocols: Sequence[str] = PROTOCOLS,
) -> dict[str, list[Pair]]:
    """Pairs generated images with ground truth, per protocol.

    Args:
      sessions: what `load_sessions` returned.
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


def single_turn_name(session_id: str, turn: int) -> str:
    return f"{session_id}_1.png" if turn == 1 else f"{session_id}_inde_{turn}.png"


def multi_turn_name(session_id: str, turn: int) -> str:
    return f"{session_id}_1.png" if turn == 1 else f"{session_id}_iter_{turn}.png"


def require_folder(path: str | Path) -> Path:
    """`path`, which must be a folder."""
    if not Path(path).is_dir():
        raise UserError(f"{path}: no such folder")
    return Path(path)


def image_names(folder: Path) -> set[str]:
    """Every image below `folder`, as its path from there."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in _IMAGE_SUFFIXES)
    return {file.relative_to(folder).as_posix() for file in without_mac_metadata(files)}


def name_differences(missing: set[str], extra: set[str], listing: str) -> str:
    """Sentences for a message: which files are missing, which ones `listing` does not mention."""
    kinds = (("Missing", missing), (f"Not in {listing}", extra))
    return "".join(f" {kind}: {_list_names(names)}." for kind, names in kinds if names)


def _all_turn_pairs(session: Session, generated: Path, gt: Path) -> list[Pair]:
    pairs = []
    for turn in session.turns:
        image = generated / single_turn_name(session.id, turn.number)
        source, target = gt / turn.input, gt / turn.output
        edits = (Edit(image, source),)
        pairs.append(
            Pair(ALL_TURN, session.id, turn, image, target, source, edits, f"{session.id}/{turn.output}")
        )
    return pairs


def _final_turn_pairs(session: Session, generated: Path, gt: Path) -> list[Pair]:
    source = gt / session.turns[0].input
    edits = []
    for turn in session.turns:
        edit_input = edits[-1].generated if edits else source
        edits.append(Edit(generated / multi_turn_name(session.id, turn.number), edit_input))
    last = session.turns[-1]
    image, target, ceiling = edits[-1].generated, gt / last.output, f"{session.id}/{last.output}"
    return [Pair(FINAL_TURN, session.id, last, image, target, source, tuple(edits), ceiling)]


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
        outputs = {name for name in present if _output_number(session.id, name) is not None}
        missing |= {f"{session.id}/{name}" for name in required - present}
        extra |= {f"{session.id}/{name}" for name in outputs - required}
    if missing or extra:
        differences = name_differences(missing, extra, "the sessions file")
        raise UserError(f"{folder}: the ground truth does not match the sessions file.{differences}")


def _parse_session(path: Path, session_id: str, content: object) -> Session:
    where = f"{path}: session {session_id!r}"
    if not _is_plain_name(session_id):
        raise UserError(f"{where}: an id must be a plain folder name")
    if isinstance(content, list) and content:
        turns = [
            _parse_turn(where, session_id, number, entry) for number, entry in enumerate(content, start=1)
        ]
    elif isinstance(content, dict) and content:
        turns = _parse_descriptions(where, session_id, content)
    else:
        raise UserError(f"{where}: expected a list of turns or {{file: description}}, not empty")
    return Session(session_id, tuple(turns))


def _parse_turn(where: str, session_id: str, number: int, entry: object) -> Turn:
    if not isinstance(entry, dict):
        raise UserError(f"{where}, turn {number}: expected an object with input and output, got {entry!r}")
    for key in ("input", "output"):
        if not _is_plain_name(entry.get(key)):
            raise UserError(
                f"{where}, turn {number}: {key} must be a plain file name, got {entry.get(key)!r}"
            )
    if _output_number(session_id, entry["output"]) != number:
        raise UserError(
            f"{where}, turn {number}: output is {entry['output']!r}, expected "
            f"'{session_id}-output{number}.png'"
        )
    return Turn(number, entry["input"], entry["output"], instruction=entry.get("instruction"))


def _parse_descriptions(where: str, session_id: str, captions: dict) -> list[Turn]:
    numbered = {}
    for name, caption in captions.items():
        if name == f"{session_id}-input.png":
            continue
        number = _output_number(session_id, name)
        if number is None:
            raise UserError(f"{where}: {name!r} is not '{session_id}-output<turn>.png'")
        numbered[number] = (name, caption)
    if sorted(numbered) != list(range(1, len(numbered) + 1)) or not numbered:
        raise UserError(f"{where}: turns must be 1..n without a gap, got {sorted(numbered)}")
    turns, turn_input = [], f"{session_id}-input.png"
    for number in sorted(numbered):
        name, caption = numbered[number]
        if not isinstance(caption, str):
            raise UserError(f"{where}: the description of {name!r} must be a string, got {caption!r}")
        turns.append(Turn(number, turn_input, name, caption=caption))
        turn_input = name
    return turns


def _output_number(session_id: str, name: str) -> int | None:
    match = re.fullmatch(re.escape(session_id) + r"-output([1-9]\d*)\.png", name)
    return int(match.group(1)) if match else None


def _is_plain_name(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not re.search(r"[/\\\0]", name)


def _list_names(names: set[str]) -> str:
    shown = sorted(names)[:_MAX_NAMES]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
