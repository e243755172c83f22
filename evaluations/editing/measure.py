"""The numbers of one pair, for the results and for the rows they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset.testsets.pairs import GeneratedEdit, ScoredPair
from evaluations.editing.embedding import Features
from evaluations.editing.registry import Metric, PairImages, measure_pair
from evaluations.images import load_region, load_rgb, resize_region, resize_rgb
from evaluations.metrics.encoders import Network
from evaluations.metrics.formulas import EditStep, to_tensor
from runtime.errors import UserError
from runtime.texts import read_json

GENERATED = "generated"
COPY_SOURCE = "copy_source"
TOKENIZER_CEILING = "tokenizer_ceiling"


@dataclass(frozen=True)
class Run:
    """The images that one seed generated, and what stands beside them.

    Attributes:
      pairs: what to compare.
      regions_path: folder with <id>/<file>.png, named after the generated images; None = no region metrics.
      regions: session id -> (H, W) bool, for a set that fixes them; in place of `regions_path`.
      edit_inputs: "<id>/<file>.png" -> the image that was edited; None = what the file names imply.
      ceiling_path: folder of ground truth passed through the tokenizer; None = no such row.
      verify: judges an image as the outcome of a pair; None = no verdicts.
      seed: number of the run among the seeds. Rows to compare with do not depend on the seed: only the first
        run measures them.
    """

    pairs: list[ScoredPair]
    regions_path: Path | None = None
    regions: Mapping[str, np.ndarray] | None = None
    edit_inputs: dict[str, Path] | None = None
    ceiling_path: Path | None = None
    verify: Callable[[np.ndarray, ScoredPair], dict[str, Any]] | None = None
    seed: int = 0

    def row_images(self, pair: ScoredPair) -> dict[str, Path]:
        """Row -> its image of the pair."""
        rows = {GENERATED: pair.generated}
        if self.seed == 0:
            if pair.source is not None:
                rows[COPY_SOURCE] = pair.source
            if self.ceiling_path:
                rows[TOKENIZER_CEILING] = self.ceiling_path / pair.ceiling
        return rows


@dataclass(frozen=True)
class Tools:
    """What every pair is measured with."""

    metrics: list[Metric]
    features: Features
    networks: Mapping[str, Network] = field(default_factory=dict)


def load_edit_inputs(path: str | Path) -> dict[str, Path]:
    """Reads which image every edit started from out of the sampler's samples.json.

    Relative paths resolve against the file's folder, then against the working directory.
    """
    path = Path(path)
    content = read_json(path, dict)
    try:
        edits = content["edits"]
        inputs = {name: Path(edit["input"]) for name, edit in edits.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a samples.json, {{edits: {{file: {{input: path}}}}}} ({error!r})"
        ) from error
    return {
        name: beside if (beside := path.parent / recorded).exists() else recorded
        for name, recorded in inputs.items()
    }


def measure_rows(pair: ScoredPair, run: Run, tools: Tools) -> list[dict[str, Any]]:
    """Measures the generated image, the copied source and, with a ceiling folder, the reconstructed target.

    Returns:
      One item per row: {"row", "protocol", "session", "turn", "seed", "instruction", "caption", "generated",
      "target", "source", "metrics": {name: number or None}} and, with a verifier, "verdict".
    """
    target, source = load_rgb(pair.target), None if pair.source is None else load_rgb(pair.source)
    regions = [run.regions[pair.session]] if run.regions else _load_regions(pair, run)
    height, width = target.shape[:2]
    region = _union(regions, height, width) if regions else None
    items = []
    for row, path in run.row_images(pair).items():
        image = source if path == pair.source else load_rgb(path)
        steps = ()
        if regions:
            one_step = EditStep(image, source, _union(regions, *image.shape[:2]))
            given = row == GENERATED and run.regions is None
            steps = _edit_steps(pair, regions, run) if given else (one_step,)
        values = measure_pair(
            tools.metrics,
            PairImages(
                generated=to_tensor(resize_rgb(image, height, width)),
                target=to_tensor(target),
                region=None if region is None else torch.from_numpy(region),
                steps=steps,
                features=tools.features.of_pair(path, pair.target, pair.source, pair.turn),
                networks=tools.networks,
            ),
            f"{row}, {pair.name} ({path} against {pair.target})",
        )
        item = {
            "row": row,
            "protocol": pair.protocol,
            "session": pair.session,
            "turn": pair.turn.number,
            "seed": run.seed,
            "instruction": pair.turn.instruction,
            "caption": pair.turn.caption,
            "generated": str(path),
            "target": str(pair.target),
            "source": None if pair.source is None else str(pair.source),
            "metrics": values,
        }
        if run.verify:
            item["verdict"] = _verdict(run, image, pair, path)
        items.append(item)
    return items


def _verdict(run: Run, image: np.ndarray, pair: ScoredPair, path: Path) -> dict[str, Any]:
    try:
        return run.verify(image, pair)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _load_regions(pair: ScoredPair, run: Run) -> list[np.ndarray]:
    if run.regions_path is None:
        return []
    return [load_region(run.regions_path / edit.name) for edit in pair.edits]


def _edit_steps(pair: ScoredPair, regions: list[np.ndarray], run: Run) -> tuple[EditStep, ...]:
    """Every edit that led to the generated image, at its own resolution."""
    steps = []
    for edit, region in zip(pair.edits, regions, strict=True):
        generated = load_rgb(edit.generated)
        if region.shape != generated.shape[:2]:
            raise UserError(
                f"{run.regions_path / edit.name}: {region.shape[1]}x{region.shape[0]}, but "
                f"{edit.generated} is {generated.shape[1]}x{generated.shape[0]}; write regions at that size"
            )
        steps.append(EditStep(generated, load_rgb(_edit_input(edit, run)), region))
    return tuple(steps)


def _edit_input(edit: GeneratedEdit, run: Run) -> Path:
    if run.edit_inputs is None:
        return edit.input
    if edit.name not in run.edit_inputs:
        raise UserError(f"samples.json does not mention {edit.name}; it belongs to another run")
    return run.edit_inputs[edit.name]


def _union(regions: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Comparison rows count as one edit of the source inside all the regions together."""
    return np.logical_or.reduce([resize_region(region, height, width) for region in regions])
