"""What the programs share that write one .npy for every line of jsonl files (text features, image codes).

Line i (from 0) of `<stem>.jsonl` goes to `<output>/<stem>/<i>.npy`. Every folder notes what its files were
made of and with what (`extraction.json`); a run that was stopped goes on, on any number of ranks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.files import require_regular, without_mac_metadata
from runtime.logging import progress
from runtime.texts import write_json

SETTINGS_FILE = "extraction.json"


@dataclass(frozen=True)
class Source:
    """One jsonl file, its records (name of the .npy: the line from 0; content), and the folder for them."""

    file: Path
    folder: Path
    records: Sequence


def list_jsonl(data_path: str | Path, start: int, end: int | None) -> list[Path]:
    """The sorted jsonl files of a folder from number `start` (from 0) to `end` (included), or one file."""
    data = Path(data_path)
    if not data.is_dir():
        require_regular(data, "a list")
    if data.is_file():
        return [data]
    if not data.is_dir():
        raise UserError(f"--data-path {data} does not exist; give a jsonl file or a folder of them")
    files = without_mac_metadata(data.glob("*.jsonl"))[start : None if end is None else end + 1]
    if not files:
        raise UserError(f"no *.jsonl in {data} between --data-start and --data-end")
    return files


def claim_folders(
    sources: list[Source],
    kind: str,
    settings: dict[str, Any],
    text_of: Callable[[Any], str],
    output_flag: str,
    process: Distributed,
) -> None:
    """Reads every line once, so that a bad one shows before the long work, and claims the folders.

    Args:
      kind: what is extracted from, for the note and the messages ("captions").
      settings: what the files depend on besides.
      text_of: identifies a record's content.
      output_flag: the flag that names the folders' parent, for the message.
      process: each rank claims its part; nobody may write before all have.
    """
    mine = sources[process.rank :: process.world_size]
    total = sum(len(source.records) for source in mine)
    unit = kind.removesuffix("s")
    with progress(total=total, desc="reading", unit=unit, disable=not process.is_main) as bar:
        for source in mine:
            digest = hashlib.sha256()
            for number, content in source.records:
                digest.update(f"{number}\0{text_of(content)}\0".encode(errors="surrogatepass"))
                bar.update()
            _claim_folder(source.folder, {kind: digest.hexdigest(), **settings}, output_flag)
    process.barrier()


def _claim_folder(folder: Path, settings: dict[str, Any], output_flag: str) -> None:
    """Notes how the folder's files are made, or refuses if they were made otherwise."""
    found = read_settings(folder)
    if found is None and not without_mac_metadata(folder.glob("*.npy")):
        found = settings
    if found != settings:
        found = found or {}
        different = [key for key in {**settings, **found} if found.get(key) != settings.get(key)]
        raise UserError(
            f"{folder} holds files made with other {', '.join(different)} ({SETTINGS_FILE} there); "
            f"choose another {output_flag} or delete the folder"
        )
    write_json(folder / SETTINGS_FILE, settings)


def read_settings(folder: Path) -> dict[str, Any] | None:
    """What a folder's files were made of and with; {} if the note is damaged, None without one."""
    path = folder / SETTINGS_FILE
    if not path.exists():
        return None
    require_regular(path, "a note of settings")
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def share_size(sources: list[Source], process: Distributed) -> int:
    """How many records fall to this rank."""
    return sum(len(range(process.rank, len(s.records), process.world_size)) for s in sources)


def missing_batches(
    source: Source, is_done: Callable[[Path], bool], batch_size: int, process: Distributed, bar: tqdm
) -> Iterator[list[tuple[Path, Any]]]:
    """Batches of (file to write, content) out of this rank's share; what is done already goes to the bar."""
    batch: list[tuple[Path, Any]] = []
    for index in range(process.rank, len(source.records), process.world_size):
        number, content = source.records[index]
        path = source.folder / f"{number}.npy"
        if is_done(path):
            bar.update()
            continue
        batch.append((path, content))
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch
