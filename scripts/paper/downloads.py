"""Files from the hub, each at one commit and checked once by the sum that the hub states."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

from autoregressive.editing.model_folders import first_line
from runtime.errors import UserError
from runtime.files import file_sha256
from runtime.logging import get_logger
from runtime.texts import write_json
from scripts.paper.config import ReproducePaper
from scripts.paper.sources import HubSource

log = get_logger(__name__)


class Downloads:
    """What was downloaded, noted in `downloads.json`: the commit that was met first is kept to."""

    def __init__(self, config: ReproducePaper) -> None:
        self._config = config
        self._file = config.root / "downloads.json"
        self._notes: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def local(self, source: HubSource) -> Path | None:
        """The file, or folder, that somebody has put into --pretrained."""
        if source.place is None:
            return None
        path = Path(self._config.pretrained).resolve() / source.place
        return path if path.exists() else None

    def noted(self, source: HubSource) -> Path | None:
        """What an earlier run has downloaded, if all of it is still there."""
        note = self._notes.get(source.name)
        if note is None or self._revision(source) not in (None, note["revision"]):
            return None
        folder = Path(note["folder"])
        sizes = {name: entry["bytes"] for name, entry in note["files"].items()}
        if any(not (folder / n).is_file() or (folder / n).stat().st_size != s for n, s in sizes.items()):
            return None
        return _path(source, folder, list(sizes))

    def get(self, source: HubSource) -> Path:
        """The file, or the folder of several, from --pretrained, an earlier run, or the hub.

        Raises:
          UserError: the hub cannot be reached or does not have it, or states another sum of a file.
        """
        if found := self.local(source) or self.noted(source):
            return found
        from huggingface_hub import HfApi, snapshot_download  # slow to import

        wanted = {"repo_id": source.repository, "repo_type": source.kind}
        note = self._notes.get(source.name, {})
        revision = self._revision(source) or note.get("revision")
        log.info(
            "downloading %s of %s (about %g GB)", ", ".join(source.files), source.repository, source.gigabytes
        )
        try:
            info = HfApi().repo_info(**wanted, revision=revision, files_metadata=True)
            there = {entry.rfilename: entry for entry in info.siblings}
            names = [name for name in there if any(fnmatch.fnmatch(name, p) for p in source.files)]
            if not names:
                raise UserError(f"{source.repository} at {info.sha} has no {', '.join(source.files)}")
            folder = Path(snapshot_download(**wanted, revision=info.sha, allow_patterns=names))
        except UserError:
            raise
        except Exception as error:  # huggingface_hub and what it speaks through raise many kinds
            place = f", or put it at {Path(self._config.pretrained) / source.place}" if source.place else ""
            raise UserError(
                f"{source.repository}: cannot be downloaded ({first_line(error)}); try again, the "
                f"download goes on{place}"
            ) from error
        files = {name: _checked(folder / name, there[name]) for name in names}
        self._notes[source.name] = {
            "repository": source.repository, "revision": info.sha, "folder": str(folder), "files": files
        }  # fmt: skip
        write_json(self._file, self._notes)
        return _path(source, folder, names)

    def _revision(self, source: HubSource) -> str | None:
        return self._config.revision(source.repository) or source.revision


def _checked(path: Path, entry: Any) -> dict[str, Any]:
    """Size and sum of a file; those of large files are compared with the hub's."""
    found = file_sha256(path)
    if entry.lfs is not None and entry.lfs.sha256 != found:
        path.resolve().unlink()
        raise UserError(
            f"{path}: its SHA-256 is {found}, the hub says {entry.lfs.sha256}; it is deleted: run this again"
        )
    return {"bytes": path.stat().st_size, "sha256": found}


def _path(source: HubSource, folder: Path, names: list[str]) -> Path:
    """A single file itself; of several their folder."""
    if len(source.files) == 1 and "*" not in source.files[0]:
        return folder / names[0]
    return (folder / names[0]).parent
