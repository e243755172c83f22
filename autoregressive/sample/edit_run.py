"""Edits of a whole test set: shared by ranks, resumed where they stopped, reused for equal settings only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from autoregressive.editing.arguments import OwnSizeMask
from autoregressive.editing.choices import AUTO
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sample.jobs import run_jobs, run_rounds
from autoregressive.sample.loading import require_marked
from dataset.batches import Text
from dataset.records.images import ImageSource, load_image, load_native
from dataset.records.masks import MAGICBRUSH_SPARE, load_magicbrush_mask, marked, require_shape
from language.t5 import encode_texts
from runtime.devices import timed
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.files import writing
from runtime.logging import get_logger
from runtime.pictures import save_picture
from runtime.texts import write_json

log = get_logger(__name__)
Entry = dict[str, Any]


@dataclass(frozen=True)
class KeyedEdit:
    """One edit of a test set, known by the key of its result.

    Attributes:
      key: the result's file, below the folder of images; a sampling seed comes from it.
      source: the image to edit.
      text: gives what the model is told; called when the edit is made.
      mask: a MagicBrush mask; "auto" finds the region; None regenerates the whole image.
    """

    key: str
    source: ImageSource
    text: Callable[[], Text]
    mask: Path | str | None


@dataclass(frozen=True)
class EditFolders:
    """Where files go: results in `images`; `samples.json` and `regions/` (255 = may change) in `records`."""

    images: Path
    records: Path

    @property
    def regions(self) -> Path:
        return self.records / "regions"

    @property
    def samples_json(self) -> Path:
        return self.records / "samples.json"


class EditRun:
    """The edits of one test set with one set of settings.

    While it runs every rank notes its finished edits in a journal, so that a run that was stopped goes on
    where it was; at the end the journals become `samples.json`: {"settings", "settings_hash", "edits": {key:
    {"input", "tokens", "seconds"}}}.
    """

    def __init__(
        self,
        pipeline: EditingPipeline,
        folders: EditFolders,
        settings: dict[str, Any],
        edit_options: dict[str, Any],
        seed: int,
        resampling: Image.Resampling = Image.Resampling.BILINEAR,
    ) -> None:
        """
        Args:
          settings: all that the results depend on; results made with others are made anew.
          edit_options: keyword arguments of `EditingPipeline.edit`.
          seed: mixed with each edit's key, so that a subset or another number of ranks changes no result.
          resampling: of the sources, see `EditingPipeline.encode`; one of the settings.
        """
        self.cropped = edit_options.get("crop", "none") != "none"
        if self.cropped:  # crops are bilinear
            resampling = Image.Resampling.BILINEAR
        settings = settings | {"source_resampling": resampling.name.lower(), "mask_size": "own"}
        self.pipeline, self.folders, self.settings = pipeline, folders, settings
        self.edit_options, self.seed, self.resampling = edit_options, seed, resampling
        self.hash = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()

    def is_done(self, keys: set[str]) -> bool:
        """True if `samples.json` lists exactly these edits, made with these settings, and all are there."""
        try:
            samples = json.loads(self.folders.samples_json.read_text())
            same = samples["settings_hash"] == self.hash and set(samples["edits"]) == keys
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return same and all((self.folders.images / key).exists() for key in keys)

    def make(
        self, rounds: Sequence[Sequence[KeyedEdit]], keys: set[str], batch_size: int, ranks: Distributed
    ) -> bool:
        """Makes the edits.

        Args:
          rounds: this rank's; the jobs of one may edit results of the rounds before.
          keys: those of all ranks.
        Returns:
          False if all of them were there already.
        """
        done = self.is_done(keys)
        ranks.barrier()  # nobody may write before all have looked
        if done:
            log.info("%s holds these %d edits with these settings already", self.folders.images, len(keys))
            return False
        if ranks.is_main:  # the images of which these speak are about to change
            self._reopen()
            self.folders.samples_json.unlink(missing_ok=True)
            for path in set(self._journals()) - set(self._journals(self.hash)):
                path.unlink()
        ranks.barrier()
        entries = self._read_journals()

        def make(batch: Sequence[KeyedEdit]) -> None:
            self._note(self._edit(batch), ranks.rank)

        def is_done(job: KeyedEdit) -> bool:
            return job.key in entries

        run_rounds(rounds, batch_size, ranks, make, desc="editing", unit="edit", is_done=is_done)
        ranks.barrier()
        if ranks.is_main:
            self._finish(keys)
        ranks.barrier()
        return True

    def _reopen(self) -> None:
        """Notes what `samples.json` lists with these settings, when other edits were asked for then."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            samples = json.loads(self.folders.samples_json.read_text())
            if samples["settings_hash"] == self.hash:
                self._note(samples["edits"], rank=0)

    def _edit(self, jobs: Sequence[KeyedEdit]) -> dict[str, Entry]:
        """Edits one batch and writes it."""
        load = load_native if self.cropped else load_image
        images = [load(job.source) for job in jobs]
        masks = [_load_mask(job.mask, image) for job, image in zip(jobs, images, strict=True)]
        before: dict[str, float] = {}
        with timed(before, "encode", self.pipeline.device):
            # Texts that cleaning empties are warned of here, not refused: a test set is edited whole.
            texts = encode_texts(self.pipeline.text_encoder, [job.text() for job in jobs])
            codes = None if self.cropped else self.pipeline.encode(images, self.resampling)
        results = self.pipeline.edit(
            images,
            texts,
            masks,
            source_codes=codes,
            seeds=[zlib.crc32(f"{self.seed} {job.key}".encode()) for job in jobs],
            **self.edit_options,
        )
        entries = {}
        for job, result in zip(jobs, results, strict=True):
            save_picture(result.image, self.folders.images / job.key)
            region = Image.fromarray(result.region.numpy().astype(np.uint8) * 255)
            save_picture(region, self.folders.regions / job.key)
            entries[job.key] = {
                "input": str(job.source),
                "tokens": result.num_tokens,
                "seconds": (before["encode"] + sum(result.timings.values())) / len(jobs),
            }
        return entries

    def _journals(self, settings_hash: str = "*") -> list[Path]:
        return sorted(self.folders.records.glob(f"samples-{settings_hash[:16]}-rank*.jsonl"))

    def _note(self, entries: dict[str, Entry], rank: int) -> None:
        path = self.folders.records / f"samples-{self.hash[:16]}-rank{rank}.jsonl"
        with writing(path), path.open("a") as file:
            file.write("\n")  # ends what a killed process may have left of a line
            file.writelines(json.dumps({key: entry}) + "\n" for key, entry in entries.items())

    def _read_journals(self) -> dict[str, Entry]:
        """What was finished with these settings, by any number of ranks."""
        entries: dict[str, Entry] = {}
        for path in self._journals(self.hash):
            for line in path.read_text().splitlines():
                try:
                    entries |= json.loads(line)
                except json.JSONDecodeError:  # empty, or torn by a crash: that edit is made again
                    continue
        return {key: entry for key, entry in entries.items() if (self.folders.images / key).exists()}

    def _finish(self, keys: set[str]) -> None:
        entries = self._read_journals()
        if absent := sorted(keys - entries.keys()):
            names = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
            raise UserError(
                f"{self.folders.images} or the journals in {self.folders.records} lack {len(absent)} of "
                f"{len(keys)} edits: {names}; all ranks need one shared output folder, and the same command "
                "again makes what is missing"
            )
        content = {
            "settings": self.settings,
            "settings_hash": self.hash,
            "edits": {key: entries[key] for key in sorted(keys)},
        }
        write_json(self.folders.samples_json, content, default=str)
        for path in self._journals():
            path.unlink()
        log.info("%d edits in %s", len(keys), self.folders.images)


def write_ceiling(
    pipeline: EditingPipeline,
    images: Sequence[tuple[ImageSource, Path]],
    batch_size: int,
    ranks: Distributed,
    *,
    anew: bool = True,
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
) -> None:
    """Writes images as the tokenizer gives them back, at their size: the best that any edit could reach.

    Args:
      images: of all ranks: (image, file to write).
      anew: also where the file is there already.
      resampling: of the sources, see `EditingPipeline.encode`.
    """
    images = [(source, path) for source, path in images if anew or not path.exists()]
    ranks.barrier()  # nobody may write before all have looked

    def make(batch: Sequence[tuple[ImageSource, Path]]) -> None:
        originals = [load_image(source) for source, _ in batch]
        decoded = pipeline.decode(pipeline.encode(originals, resampling))
        for (_, path), image, through in zip(batch, originals, decoded, strict=True):
            save_picture(through.resize(image.size, Image.Resampling.BICUBIC), path)

    run_jobs(images, batch_size, ranks, make, desc="tokenizer ceiling", unit="image")
    ranks.barrier()


def files_sha256(digests: Iterable[str]) -> str:
    """One digest of many."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _load_mask(mask: Path | str | None, image: Image.Image) -> np.ndarray | OwnSizeMask | str | None:
    if mask is None or mask == AUTO:
        return mask
    region = load_magicbrush_mask(mask).numpy()
    require_shape(region, image.size, str(mask), MAGICBRUSH_SPARE)
    require_marked(region, mask)
    if region.shape == (image.height, image.width):
        return region
    return OwnSizeMask(torch.from_numpy(marked(region)))
