"""The numbers of one pair, for the results and for the rows they are compared with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluations.images import load_region, load_rgb, resize_region, resize_rgb
from evaluations.metrics import EditStep, Metric, PairImages, measure_pair, to_tensor
from evaluations.pairs import Edit, Pair
from runtime.errors import UserError

GENERATED = "generated"
COPY_SOURCE = "copy_source"
TOKENIZER_CEILING = "tokenizer_ceiling"


@dataclass(frozen=True)
class Sources:
    """What every pair is measured with, beyond its images.

    Attributes:
      metrics: what to compute.
      regions_path: folder with <id>/<file>.png, named after the generated images; None = no region metrics.
      ceiling_path: folder with <id>/<id>-outputK.png passed through the tokenizer; None = no such row.
      edit_inputs: "<id>/<file>.png" -> the image that was edited; None = what the file names imply.
      examples: session id -> shapes examples per turn; None = no verdicts.
    """

    metrics: list[Metric]
    regions_path: Path | None = None
    ceiling_path: Path | None = None
    edit_inputs: dict[str, Path] | None = None
    examples: dict[str, list] | None = None


def load_edit_inputs(path: str | Path) -> dict[str, Path]:
    """Reads which image every edit started from out of the sampler's samples.json.

    Relative paths resolve against the file's folder, then against the working directory.
    """
    path = Path(path)
    try:
        edits = json.loads(path.read_text(encoding="utf-8"))["edits"]
        inputs = {name: Path(edit["input"]) for name, edit in edits.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a samples.json, {{edits: {{file: {{input: path}}}}}} ({error!r})"
        ) from error
    return {
        name: beside if (beside := path.parent / recorded).exists() else recorded
        for name, recorded in inputs.items()
    }


def measure_rows(pair: Pair, sources: Sources) -> list[dict[str, Any]]:
    """Measures the generated image, the copied source and, with a ceiling folder, the reconstructed target.

    Returns:
      One item per row: {"row", "protocol", "session", "turn", "instruction", "caption", "generated",
      "target", "metrics": {name: number or None}} and, with shapes examples, "verdict".
    """
    target = load_rgb(pair.target)
    source = load_rgb(pair.source)
    regions = _load_regions(pair, sources)
    images = {GENERATED: (pair.generated, load_rgb(pair.generated)), COPY_SOURCE: (pair.source, source)}
    if sources.ceiling_path:
        ceiling = sources.ceiling_path / pair.session / pair.turn.output
        images[TOKENIZER_CEILING] = (ceiling, load_rgb(ceiling))

    height, width = target.shape[:2]
    region = _union(regions, height, width) if regions else None
    items = []
    for row, (path, image) in images.items():
        steps = ()
        if regions:
            steps = (
                _edit_steps(pair, regions, sources)
                if row == GENERATED
                else (_whole_step(image, source, regions),)
            )
        values = measure_pair(
            sources.metrics,
            PairImages(
                generated=to_tensor(resize_rgb(image, height, width)),
                target=to_tensor(target),
                region=None if region is None else torch.from_numpy(region),
                steps=steps,
                caption=pair.turn.caption,
            ),
            f"{row}, {pair.name} ({path} against {pair.target})",
        )
        item = {
            "row": row,
            "protocol": pair.protocol,
            "session": pair.session,
            "turn": pair.turn.number,
            "instruction": pair.turn.instruction,
            "caption": pair.turn.caption,
            "generated": str(path),
            "target": str(pair.target),
            "metrics": values,
        }
        if sources.examples:
            # Only the embedded data set has a verifier; other data must not need its renderer.
            from evaluations.editing.verification import verify_pair

            item["verdict"] = verify_pair(image, pair, sources.examples)
        items.append(item)
    return items


def _load_regions(pair: Pair, sources: Sources) -> list[np.ndarray]:
    if sources.regions_path is None:
        return []
    return [load_region(sources.regions_path / edit.name) for edit in pair.edits]


def _edit_steps(pair: Pair, regions: list[np.ndarray], sources: Sources) -> tuple[EditStep, ...]:
    """Every edit that led to the generated image, at its own resolution."""
    steps = []
    for edit, region in zip(pair.edits, regions, strict=True):
        generated = load_rgb(edit.generated)
        if region.shape != generated.shape[:2]:
            raise UserError(
                f"{sources.regions_path / edit.name}: {region.shape[1]}x{region.shape[0]}, but "
                f"{edit.generated} is {generated.shape[1]}x{generated.shape[0]}; write regions at that size"
            )
        steps.append(EditStep(generated, load_rgb(_edit_input(edit, sources)), region))
    return tuple(steps)


def _edit_input(edit: Edit, sources: Sources) -> Path:
    if sources.edit_inputs is None:
        return edit.input
    if edit.name not in sources.edit_inputs:
        raise UserError(f"samples.json does not mention {edit.name}; it belongs to another run")
    return sources.edit_inputs[edit.name]


def _whole_step(image: np.ndarray, source: np.ndarray, regions: list[np.ndarray]) -> EditStep:
    """A comparison row as one edit of the source inside all the regions together."""
    return EditStep(image, source, _union(regions, *image.shape[:2]))


def _union(regions: list[np.ndarray], height: int, width: int) -> np.ndarray:
    return np.logical_or.reduce([resize_region(region, height, width) for region in regions])
