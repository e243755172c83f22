"""What the published commands must leave behind, checked file by file."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoregressive.adapters.lora import TABLES
from autoregressive.models.config import GPT_MODELS
from autoregressive.models.weights import POSITION_TABLE, resize_position_table
from dataset.edit_masks import cells_to_pixels, pool_edit_mask
from dataset.records.images import load_image
from dataset.records.masks import load_magicbrush_mask
from runtime.checkpoint import manifest_path
from runtime.errors import UserError
from scripts.rehearse.assets import empty_model

MANIFESTS = Path(__file__).resolve().parents[2] / "tests" / "reference" / "manifests.json"
CHECKPOINT_KEYS = ("model", "optimizer", "steps", "args")
MAGICBRUSH_METRICS = ("l1", "l2", "clip-i", "dino", "clip-t", "clip-t_oracle")
EMU_METRICS = ("l1", "l2", "clip-i", "dino", "clip-out", "clip-dir")


@dataclass
class Checks:
    """Checks made so far; each is a name, whether it passed, and what was found."""

    results: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, passed: bool, found: object = "") -> None:
        self.results.append({"name": name, "passed": bool(passed), "found": str(found)})

    @contextmanager
    def group(self, name: str) -> Iterator[None]:
        """Turns an error within into a failed check: a missing or unreadable file is one."""
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError, UserError) as error:
            self.add(name, False, f"{type(error).__name__}: {error}")

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [result for result in self.results if not result["passed"]]


@dataclass(frozen=True)
class Training:
    """What a training command was asked to do."""

    results: Path
    gpt_model: str
    image_size: int
    mask_in_context: bool
    steps: int
    lr: float
    started_from: Path
    lora: bool = False
    eight_bits: bool = False

    @property
    def checkpoint(self) -> Path:
        return self.results / "checkpoints" / f"{self.steps:07d}.pt"

    @property
    def grid(self) -> int:
        return self.image_size // 16


def check_training(checks: Checks, training: Training, shapes: dict[str, tuple[int, ...]]) -> None:
    """Checks the checkpoint and the metrics of a training.

    Args:
      shapes: what the parameters must be called, and their shapes.
    """
    with checks.group("checkpoint"):
        names = sorted(path.name for path in training.checkpoint.parent.iterdir())
        expected = [training.checkpoint.name, manifest_path(training.checkpoint).name]
        checks.add("one checkpoint, of the last step, and its manifest", names == expected, names)
        content = open_checkpoint(training.checkpoint)
        keys = list(content)
        checks.add("checkpoint has the published keys", set(CHECKPOINT_KEYS) <= set(keys), keys)
        checks.add("steps", content["steps"] == training.steps, content["steps"])
        named = isinstance(content["args"], dict) and content["args"].get("gpt_model")
        checks.add("args are a plain dict that names the model", named == training.gpt_model, named)
        if training.lora:
            _check_adapter(checks, content["model"])
        else:
            _check_weights(checks, training, content["model"], shapes)
        # One moment of each kind for every weight that is trained; the unconditional caption is not.
        trained = len(content["model"]) if training.lora else len(shapes) - 1
        moments = len(content["optimizer"]["state"])
        checks.add("optimizer state of every parameter", moments == trained, moments)
    with checks.group("metrics.jsonl"):
        losses = [line["loss"] for line in read_metrics(training) if "loss" in line]
        checks.add("a loss for every step", len(losses) == training.steps, len(losses))
        # A model of random weights knows nothing; one step on one image can move it to either side of that.
        chance = math.log(shapes["output.weight"][0])
        plausible = all(loss is not None and 0 < loss < 3 * chance for loss in losses)  # None: not finite
        shown = [loss if loss is None else round(loss, 3) for loss in losses]
        checks.add("losses have the size of chance", plausible, shown)


def check_measured_memory(checks: Checks, log_file: Path, below: float) -> None:
    """What `--dry-run` has measured a rank to take, from its log; in GB."""
    found = re.search(r"memory per rank +([\d.]+) GB", log_file.read_text())
    name = f"the dry run measures less than {below} GB"
    checks.add(name, found is not None and float(found[1]) < below, found and f"{found[1]} GB")


def read_metrics(training: Training) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (training.results / "metrics.jsonl").read_text().splitlines()]


def open_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, ours or LlamaGen's; its tensors stay on disk until they are looked at."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def expected_shapes(gpt_model: str, image_size: int, mask_in_context: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes as published; of a size that no one has published, as the model has them."""
    name = "R-GPT-XL" if gpt_model == "GPT-XL-RAR" else gpt_model
    key = f"{name}@{image_size}{'+mask_in_context' if mask_in_context else ''}"
    published = json.loads(MANIFESTS.read_text())
    if key in published:
        return {parameter: tuple(shape) for parameter, shape in published[key].items()}
    cells = (image_size // 16) ** 2
    config = replace(GPT_MODELS[name], block_size=cells, mask_in_context=mask_in_context)
    return {parameter: tuple(tensor.shape) for parameter, tensor in empty_model(config).state_dict().items()}


def _check_weights(
    checks: Checks, training: Training, state: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]
) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = sorted(n for n in found.keys() | shapes.keys() if found.get(n) != shapes.get(n))
    checks.add(f"{len(shapes)} parameters, named and shaped as published", not wrong, wrong[:5])
    table = found.get(POSITION_TABLE)
    checks.add(f"position table {training.grid}x{training.grid}", table == shapes[POSITION_TABLE], table)
    checks.add("weights are finite", all(torch.isfinite(t).all() for t in state.values()))
    start = dict(open_checkpoint(training.started_from)["model"])
    if POSITION_TABLE in start:
        start[POSITION_TABLE] = resize_position_table(start[POSITION_TABLE], training.grid**2)
    moved = {name: (state[name] - start[name]).abs().max().item() for name in start if name in state}
    # AdamW moves a weight by about the learning rate a step; weights drawn anew would differ a thousandfold.
    # Where an average's code says zero, one weight in a million moves by tens of it.
    limit = (100 if training.eight_bits else 2) * training.lr * training.steps
    near = moved.keys() == start.keys() and all(distance < limit for distance in moved.values())
    checks.add(f"weights started as those of {training.started_from.name}", near, max(moved.values()))
    checks.add("weights were trained", any(distance > 0 for distance in moved.values()))


def _check_adapter(checks: Checks, state: dict[str, Tensor]) -> None:
    odd = [name for name in state if "lora_" not in name and name not in TABLES]
    checks.add("the adapter and its tables alone", not odd, odd[:5])
    checks.add("weights are finite", all(torch.isfinite(t).all() for t in state.values()))
    ends = [tensor for name, tensor in state.items() if "lora_B" in name]  # they begin as zeros
    still = sum(not tensor.any() for tensor in ends)
    checks.add("every layer's part was trained", bool(ends) and not still, f"{still} of {len(ends)} were not")


def check_magicbrush(checks: Checks, root: Path, training: Training, step: int) -> None:
    """Checks MagicBrush validation: the edits, the pixels they had to leave alone, the scores."""
    samples = training.results / f"samples-ckpt-{step:07d}"
    with checks.group("MagicBrush edits"):
        edits = _magicbrush_edits(root, samples)
        found = {str(path.relative_to(samples)) for path in samples.rglob("*.png")}
        expected = {str(path.relative_to(samples)) for path in edits}
        checks.add(f"{len(expected)} MagicBrush edits", found == expected, sorted(found ^ expected))
        for path, (source, mask) in edits.items():
            same, changed = compare_outside(path, source, mask, training.grid)
            checks.add(f"{path.name}: outside its region it is its source", same and changed, (same, changed))
    with checks.group("MagicBrush scores"):
        expected = {"final_turn": MAGICBRUSH_METRICS, "all_turn": MAGICBRUSH_METRICS}
        _check_scores(checks, training, step, "", expected)


def _magicbrush_edits(root: Path, samples: Path) -> dict[Path, tuple[Path, Path]]:
    """The edits expected, with the image each was made of and its mask."""
    edits = {}
    for session, turns in json.loads((root / "test" / "edit_sessions.json").read_text()).items():
        images = root / "test" / "images" / session
        for number, turn in enumerate(turns, start=1):
            mask = images / turn["mask"]
            alone = samples / session / f"{session}_{'1' if number == 1 else f'inde_{number}'}.png"
            edits[alone] = images / turn["input"], mask
            if number > 1:
                before = f"{session}_{'1' if number == 2 else f'iter_{number - 1}'}.png"
                edits[samples / session / f"{session}_iter_{number}.png"] = samples / session / before, mask
    return edits


def compare_outside(edited: Path, source: Path, mask: Path, grid: int) -> tuple[bool, bool]:
    """Whether the pixels outside the edited cells are the source's, and whether any inside changed."""
    after, before = (np.asarray(load_image(path)) for path in (edited, source))
    cells = pool_edit_mask(load_magicbrush_mask(mask)[None], grid)
    region = cells_to_pixels(cells, grid, *before.shape[:2]).numpy()
    different = (after != before).any(axis=2)
    return not different[~region].any(), bool(different[region].any())


def check_emu(checks: Checks, root: Path, training: Training, step: int) -> None:
    """Checks Emu Edit validation: the edits and the scores."""
    with checks.group("Emu Edit edits"):
        samples = training.results / f"emuedit_test_samples-ckpt-{step:07d}" / "samples"
        listed = json.loads((root / "assets" / "emu_test_data.json").read_text())
        expected = {f"{item['idx']}.png" for item in listed}
        found = {path.name for path in samples.iterdir()}
        checks.add(f"{len(expected)} Emu Edit edits", found == expected, sorted(found ^ expected))
        sizes = [
            load_image(samples / name).size
            == load_image(root / "images_valid" / f"{Path(name).stem}_gt.png").size
            for name in sorted(expected)
        ]
        checks.add("Emu Edit edits have their sources' sizes", all(sizes), sizes)
    with checks.group("Emu Edit scores"):
        _check_scores(checks, training, step, "emuedit_test_", {"final_turn": EMU_METRICS})


def _check_scores(
    checks: Checks, training: Training, step: int, prefix: str, expected: dict[str, tuple[str, ...]]
) -> None:
    """Checks the scores of a test set, in their folder and among the run's metrics.

    Args:
      expected: protocol -> the metrics that it must have.
    """
    folder = training.results / f"{prefix}scores-ckpt-{step:07d}.txt"
    scores = json.loads((folder / "evaluation_metrics.json").read_text())
    logged: dict[str, Any] = {}
    for line in read_metrics(training):
        logged |= line if line["step"] == step else {}
    for protocol, metrics in expected.items():
        values = {metric: scores[protocol].get(metric) for metric in metrics}
        finite = all(isinstance(v, float) and math.isfinite(v) for v in values.values())
        checks.add(f"{folder.name} {protocol}: the published metrics", finite, values)
        same = all(logged.get(f"{prefix}{protocol}/{metric}") == v for metric, v in values.items())
        checks.add(f"{folder.name} {protocol}: the same in metrics.jsonl", same, sorted(logged))
