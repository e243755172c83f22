"""Validation inside training: edits the test sets with the model as it is, all ranks sharing; scores them.

Files are named as the published code names them, below the results folder:

  samples-ckpt-<step>/<id>/<id>_1.png …               MagicBrush edits
  scores-ckpt-<step>.txt/                             a folder: evaluation_metrics.json, every item, a page
  emuedit_test_samples-ckpt-<step>/samples/<idx>.png  Emu Edit edits
  emuedit_test_scores-ckpt-<step>.txt/                as for MagicBrush
  validation/                                         regions, records and the tokenizer ceiling
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sample.edit_run import EditFolders, EditRun, KeyedEdit, write_ceiling
from autoregressive.sample.edit_sets import (
    EMU_RESAMPLING,
    emu_jobs,
    emu_sha256,
    keys_of,
    magicbrush_rounds,
    magicbrush_sha256,
)
from autoregressive.train.config import EditingConfig
from dataset.records.images import ImageSource
from dataset.testsets.emu_edit import read_emu, read_valid_list
from dataset.testsets.magicbrush import (
    SESSIONS_FILE,
    iterate_turns,
    read_descriptions,
    read_listed_sessions,
    read_sessions,
)
from dataset.testsets.pairs import ALL_TURN, PROTOCOLS
from evaluations.editing import emu_scores, magicbrush_scores
from evaluations.editing.engine import METRICS_FILE
from evaluations.editing.flags import EmuEvalConfig, ImageEvalConfig
from runtime.checkpoint import weights_fingerprint
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.files import path_sha256

Rounds = list[list[KeyedEdit]]


class TestSet(Protocol):
    """What is edited, and how the edits are scored."""

    prefix: str
    """Of its folders and of the names of its scores."""
    needs_text_encoder: bool
    """Whether its texts are words."""
    sha256: str
    """Of all its files: earlier edits of other ones are not kept."""

    def images(self, samples: Path) -> Path:
        """Where the edits go, below the folder of a step."""

    def ids(self) -> list[str]:
        """Its items, which the ranks share."""

    def rounds(self, images: Path, width: int, ids: Sequence[str]) -> Rounds:
        """The edits of some items, see `run_rounds`.

        Args:
          images: where they go.
          width: C, of text features that the set holds ready.
        """

    def originals(self) -> list[tuple[ImageSource, Path]]:
        """What passes through the tokenizer for the ceiling, each with its file there."""

    def evaluate(
        self, folders: EditFolders, ceiling: Path, scores: Path, ranks: Distributed
    ) -> dict[str, Any]:
        """Scores the edits against the ceiling: {protocol: {metric: value or None}}; writes to `scores`."""


class MagicBrushValidation:
    """MagicBrush: single-turn edits and, unless left out, sessions edited turn after turn."""

    prefix = ""
    resampling = Image.Resampling.BILINEAR

    def __init__(self, config: EditingConfig) -> None:
        self.config = config
        self.sessions = read_sessions(
            Path(config.magicbrush_json).parent,
            config.with_t5_prompt,
            config.allow_outside_root,
            absolute_paths=config.absolute_paths,
            sessions_file=config.magicbrush_json,
            images=config.magicbrush_input_path,
        )
        self.descriptions = None
        self.json_files = [Path(config.magicbrush_json), Path(config.caption_path)]
        if not (config.with_t5_prompt or config.instruction_based):
            root = Path(config.magicbrush_input_path).parent
            self.descriptions = read_descriptions(root, "global")
            self.json_files.append(root / "global_descriptions.json")
        captioned = [session.id for session in read_listed_sessions(config.caption_path)]
        _require_same(config.magicbrush_json, self.sessions, config.caption_path, captioned)
        magicbrush_scores.check(self._evaluation(Path(), Path(), EditFolders(Path(), Path())))

    @property
    def needs_text_encoder(self) -> bool:
        return not self.config.with_t5_prompt

    @cached_property
    def sha256(self) -> str:
        return magicbrush_sha256(self.sessions, self.json_files)

    def images(self, samples: Path) -> Path:
        return samples

    def rounds(self, images: Path, width: int, ids: Sequence[str]) -> Rounds:
        return magicbrush_rounds(
            {session_id: self.sessions[session_id] for session_id in ids},
            "single" if self.config.magicbrush_skip_iter else "both",
            images,
            full_mask=self.config.enforce_validation_fake_masking,
            descriptions=self.descriptions,
            width=width if self.config.with_t5_prompt else None,
        )

    def ids(self) -> list[str]:
        return list(self.sessions)

    def originals(self) -> list[tuple[ImageSource, Path]]:
        turns = iterate_turns(self.sessions)
        return [(turn.output_path, Path(turn.session_id, turn.output_path.name)) for turn in turns]

    def evaluate(
        self, folders: EditFolders, ceiling: Path, scores: Path, ranks: Distributed
    ) -> dict[str, Any]:
        return magicbrush_scores.evaluate_run(self._evaluation(ceiling, scores, folders), ranks)

    def _evaluation(self, ceiling: Path, scores: Path, folders: EditFolders) -> ImageEvalConfig:
        words = Path(self.config.magicbrush_json).with_name(SESSIONS_FILE)
        return ImageEvalConfig(
            generated_path=[str(folders.images)],
            gt_path=self.config.gt_path,
            caption_path=self.config.caption_path,
            sessions_json=str(words) if words.exists() else None,
            regions_path=[str(folders.regions)],
            samples_json=[str(folders.samples_json)],
            protocols=[ALL_TURN] if self.config.magicbrush_skip_iter else list(PROTOCOLS),
            **_shared(self.config, self.config.metric, ceiling, scores),
        )


class EmuValidation:
    """Emu Edit: every cell regenerated, compared with the source."""

    prefix = "emuedit_test_"
    resampling = EMU_RESAMPLING
    needs_text_encoder = True

    def __init__(self, config: EditingConfig) -> None:
        self.config = config
        self.items = {
            str(item.idx): item for item in read_emu(config.emu_data_file, config.valid_emuedit_test_data)
        }
        captioned = [str(entry["idx"]) for entry in read_valid_list(config.emuedit_caption_path)]
        _require_same(config.valid_emuedit_test_data, self.items, config.emuedit_caption_path, captioned)
        emu_scores.check(self._evaluation(Path(), Path(), EditFolders(Path(), Path())))

    @cached_property
    def sha256(self) -> str:
        return emu_sha256(list(self.items.values()))

    def images(self, samples: Path) -> Path:
        return samples / "samples"

    def rounds(self, images: Path, width: int, ids: Sequence[str]) -> Rounds:
        return [emu_jobs([self.items[idx] for idx in ids])]

    def ids(self) -> list[str]:
        return list(self.items)

    def originals(self) -> list[tuple[ImageSource, Path]]:
        return [(item.source_path, Path(f"{idx}.png")) for idx, item in self.items.items()]

    def evaluate(
        self, folders: EditFolders, ceiling: Path, scores: Path, ranks: Distributed
    ) -> dict[str, Any]:
        return emu_scores.evaluate_run(self._evaluation(ceiling, scores, folders), ranks)

    def _evaluation(self, ceiling: Path, scores: Path, folders: EditFolders) -> EmuEvalConfig:
        return EmuEvalConfig(
            generated_path=[str(folders.images)],
            gt_path=self.config.emuedit_gt_path,
            caption_path=self.config.emuedit_caption_path,
            **_shared(self.config, self.config.emuedit_metric, ceiling, scores),
        )


def read_test_sets(config: EditingConfig) -> list[TestSet]:
    """The test sets that the flags name, with everything that could fail later checked now."""
    kinds = {"magicbrush": MagicBrushValidation, "emuedit_test": EmuValidation}
    return [kinds[name](config) for name in config.val_datasets()]


class Validation:
    """Edits and scores test sets at a step; all ranks must call it together."""

    def __init__(
        self, test_sets: list[TestSet], pipeline: EditingPipeline, config: EditingConfig, ranks: Distributed
    ) -> None:
        self.test_sets, self.pipeline, self.config, self.ranks = test_sets, pipeline, config, ranks
        self.batch_size = max(1, config.val_global_batch_size // ranks.world_size)
        self.with_ceiling: set[str] = set()

    def due(self, step: int) -> bool:
        return bool(self.test_sets) and step % self.config.validate_every == 0

    def done(self, step: int) -> bool:
        """Whether this step has its scores, for all ranks alike."""
        folders = [self._scores(test_set, step) for test_set in self.test_sets]
        done = all((folder / METRICS_FILE).exists() for folder in folders)
        return all(self.ranks.gather_objects(done))

    def __call__(self, step: int) -> dict[str, float]:
        """The scores, such as "final_turn/l1" and "emuedit_test_final_turn/clip-dir"."""
        scores = {}
        for test_set in self.test_sets:
            result = self._validate(test_set, step)
            for protocol in set(PROTOCOLS) & set(result):
                for metric, value in result[protocol].items():
                    if value is not None:
                        scores[f"{test_set.prefix}{protocol}/{metric}"] = value
        self.pipeline.engine.release()  # training needs the memory
        return dict(sorted(scores.items()))

    def _validate(self, test_set: TestSet, step: int) -> dict[str, Any]:
        root, name = Path(self.config.results_dir), f"{test_set.prefix}samples-ckpt-{step:07d}"
        folders = EditFolders(test_set.images(root / name), root / "validation" / name)
        settings, seed = self._settings(test_set), self.config.global_seed
        run = EditRun(self.pipeline, folders, settings, self._edit_options(), seed, test_set.resampling)
        ids = test_set.ids()
        width = self.pipeline.transformer.config.caption_dim
        mine = test_set.rounds(folders.images, width, ids[self.ranks.rank :: self.ranks.world_size])
        run.make(mine, keys_of(test_set.rounds(folders.images, width, ids)), self.batch_size, self.ranks)

        ceiling = root / "validation" / f"{test_set.prefix}ceiling"
        if test_set.prefix not in self.with_ceiling:  # the tokenizer is frozen: once a run
            images = [(original, ceiling / path) for original, path in test_set.originals()]
            write_ceiling(self.pipeline, images, self.batch_size, self.ranks, resampling=test_set.resampling)
            self.with_ceiling.add(test_set.prefix)
        return test_set.evaluate(folders, ceiling, self._scores(test_set, step), self.ranks)

    def _scores(self, test_set: TestSet, step: int) -> Path:
        return Path(self.config.results_dir) / f"{test_set.prefix}scores-ckpt-{step:07d}.txt"

    def _edit_options(self) -> dict[str, Any]:
        return {
            "sampling": self.config.sampling(),
            "mode": "marks" if self.config.mask_in_context else "no_marks",
            "mask_rule": self.config.mask_rule,
        }

    def _settings(self, test_set: TestSet) -> dict[str, Any]:
        """What the edits depend on: earlier ones are kept for the same settings only."""
        encoder = self.pipeline.text_encoder
        options = self._edit_options()
        return {
            **options,
            "sampling": asdict(options["sampling"]),
            "seed": self.config.global_seed,
            "full_mask": self.config.enforce_validation_fake_masking,
            "skip_iter": self.config.magicbrush_skip_iter,
            "vq_ckpt_sha256": path_sha256(self.config.vq_ckpt),
            "transformer": weights_fingerprint(self.pipeline.transformer),
            "text_encoder": encoder and encoder.fingerprint(),
            "test_set_sha256": test_set.sha256,
        }


def _shared(config: EditingConfig, metrics: str, ceiling: Path, scores: Path) -> dict[str, Any]:
    """Flags of both evaluators."""
    return {
        "metric": metrics,
        "save_path": str(scores),
        "ceiling_path": str(ceiling),
        "clip_ckpt": config.clip_ckpt,
        "dino_ckpt": config.dino_ckpt,
        "device": config.device,
    }


def _require_same(edited_file: str, edited: Sequence[str], scored_file: str, scored: Sequence[str]) -> None:
    different = sorted(set(edited) ^ set(scored))
    if different:
        raise UserError(
            f"{edited_file} lists {len(edited)} items and {scored_file} {len(scored)}; {len(different)} "
            f"stand in one of them only, such as {', '.join(different[:5])}: validation edits and scores the "
            "same items"
        )
