"""Writes a data set that is drawn, not downloaded: once, in parallel, going on where it was stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.prepare.output import check_disk, disk_bytes, log
from runtime.errors import UserError
from runtime.files import without_mac_metadata
from runtime.logging import progress
from runtime.texts import write_json, write_text

_CHUNK = 250
_LINE_BYTES = 1000  # about what a pair takes in the lists


@dataclass(frozen=True)
class DrawnSet:
    """A set and how its parts are written.

    Attributes:
      name: such as "shapes"; `<name>_set.json` tells what a folder holds.
      folder: where it goes.
      identity: what decides the content of the files.
      num_train: training pairs.
      num_files: of about `file_bytes` each.
      write_chunk: (folder, indices) -> rows of the training pairs of these indices; runs in other processes.
      merge_rows: rows of all -> {file below `train`: its lines}.
      write_rest: everything but the training pairs.
      write_first: what chunks read.
    """

    name: str
    folder: Path
    identity: dict[str, Any]
    num_train: int
    num_files: int
    file_bytes: int
    write_chunk: Callable[[Path, range], list[dict[str, Any]]]
    merge_rows: Callable[[list[dict[str, Any]]], dict[str, list[dict[str, Any]]]]
    write_rest: Callable[[], None]
    write_first: Callable[[], object] = lambda: None

    @property
    def manifest(self) -> Path:
        """Tells what the folder holds, and whether it is finished."""
        return self.folder / f"{self.name}_set.json"

    def write(self, num_workers: int) -> None:
        """Writes the whole set, or what an interrupted run left undone.

        Raises:
          UserError: the folder holds something else, or the disk is too small.
        """
        if self._is_finished():
            log.info("%s is finished already with these settings: nothing to write", self.folder)
            return
        check_disk(self.folder, self.num_files * disk_bytes(self.file_bytes) + _LINE_BYTES * self.num_train)
        self._write_manifest(finished=False)
        self.write_first()
        self._write_train(num_workers)
        self.write_rest()
        self._write_manifest(finished=True)
        shutil.rmtree(self.folder / "train" / "parts")

    def _write_manifest(self, finished: bool) -> None:
        content = {"settings": self.identity, "finished": finished}
        write_text(self.manifest, json.dumps(content, indent=1))

    def _is_finished(self) -> bool:
        """Looks at what the output folder holds.

        Raises:
          UserError: another set, or files that are not ours.
        """
        folder, path = self.folder, self.manifest
        if not path.exists():
            if folder.exists() and (not folder.is_dir() or without_mac_metadata(folder.iterdir())):
                raise UserError(f"{folder} holds other files; give an empty or new folder as --output-dir")
            return False
        try:
            content = json.loads(path.read_text())
            settings, finished = content["settings"], content["finished"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r}); delete {folder} and run again") from None
        if settings != self.identity:
            wanted = self.identity
            names = [name for name in wanted | settings if settings.get(name) != wanted.get(name)]
            differing = [f"{name}={settings.get(name)} instead of {wanted.get(name)}" for name in names]
            raise UserError(
                f"{folder} holds a set with {', '.join(differing)}; delete it or give another --output-dir"
            )
        return finished

    def _write_train(self, num_workers: int) -> None:
        """Writes chunks in parallel; a chunk's rows are stored once its images are: a rerun goes on there."""
        folder = self.folder / "train"
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        starts = range(0, self.num_train, _CHUNK)
        parts = {start: folder / "parts" / f"{start:08d}.json" for start in starts}
        bar = progress(total=self.num_train, desc="training pairs", unit="pair")
        with bar, ProcessPoolExecutor(num_workers) as pool:
            jobs = {}
            for start, part in parts.items():
                indices = range(start, min(start + _CHUNK, self.num_train))
                if part.exists():
                    bar.update(len(indices))
                else:
                    job = pool.submit(self.write_chunk, folder, indices)
                    jobs[job] = (part, len(indices))
            try:
                for job in as_completed(jobs):
                    part, count = jobs[job]
                    write_json(part, job.result(), indent=None)
                    bar.update(count)
            finally:
                pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, do not write the rest first
        rows = [row for part in parts.values() for row in json.loads(part.read_text())]
        for name, lines in self.merge_rows(rows).items():
            write_text(folder / name, "".join(json.dumps(line) + "\n" for line in lines))
            log.info("%s: %d lines", folder / name, len(lines))
