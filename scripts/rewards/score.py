"""Edits and verdicts: the work of score_edits.py."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from autoregressive.editing.choices import AUTO
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sample.loading import load_pipeline
from dataset.records.images import load_image
from dataset.records.masks import load_magicbrush_mask
from dataset.shapes.edits import EditExample
from dataset.testsets.magicbrush import Turn
from evaluations.editing.verification import HEADLINE, verifier_table, verify_example
from runtime.distributed import distributed
from runtime.errors import UserError
from runtime.logging import get_logger, progress
from runtime.texts import read_json, write_json
from scripts.rewards.config import ScoreEdits
from scripts.shapes.held_out import read_held_out

log = get_logger(__name__)
Case = tuple[Turn, EditExample]


def edit_and_verify(
    pipeline: EditingPipeline, batch: list[Case], region: str, order: str, config: ScoreEdits
) -> list[dict[str, Any]]:
    """A verdict on each edit: of its first sample that is done, else of its first."""
    masks: dict[str, Any] = {"all": [None] * len(batch), "found": [AUTO] * len(batch)}
    if region == "given":
        masks["given"] = [load_magicbrush_mask(turn.mask_path).numpy() for turn, _ in batch]
    seeds = [
        zlib.crc32(f"{config.seed} {turn.session_id} {turn.number} {sample}".encode())
        for turn, _ in batch
        for sample in range(config.best_of)
    ]
    results = pipeline.edit(
        [load_image(turn.input_path) for turn, _ in batch],
        [turn.instruction for turn, _ in batch],
        masks[region],
        seeds=seeds,
        num_samples=config.best_of,
        sampling=config.sampling(),
        mask_rule=config.mask_rule,
        order=order,
    )
    verdicts = []
    for number, (_, example) in enumerate(batch):
        samples = results[number * config.best_of : (number + 1) * config.best_of]
        found = [verify_example(np.asarray(sample.image), example) for sample in samples]
        verdicts.append(next((verdict for verdict in found if verdict[HEADLINE]), found[0]))
    return verdicts


def measure(
    pipeline: EditingPipeline, cases: list[Case], region: str, order: str, config: ScoreEdits
) -> dict[str, Any]:
    """The verifier's rates, with their standard error and every edit's verdict."""
    verdicts = []
    with progress(total=len(cases), desc=f"{region} regions, {order}", unit="edit") as bar:
        for start in range(0, len(cases), config.batch_size):
            batch = cases[start : start + config.batch_size]
            verdicts += edit_and_verify(pipeline, batch, region, order, config)
            bar.update(len(batch))
    done = [int(verdict[HEADLINE]) for verdict in verdicts]
    error = (np.mean(done) * (1 - np.mean(done)) / len(done)) ** 0.5
    return verifier_table(verdicts) | {"standard_error": float(error), "done": done}


def score_edits(config: ScoreEdits) -> None:
    """Writes what is not there yet, one region and order after the other."""
    output, scores = Path(config.output), {}
    with distributed(config.device) as ranks:
        pipeline = load_pipeline(config, ranks.device)
        settings = config.settings(pipeline.text_encoder)
        settings = {k: v for k, v in settings.items() if k not in ("output", "regions", "orders")}
        if output.exists():
            held = read_json(output, dict)
            if held.get("settings") != settings:
                raise UserError(f"{output} holds scores of other settings: give another --output")
            scores = held["scores"]
        cases = read_held_out(Path(config.magicbrush_path))[: config.num_edits]
        for region in config.regions:
            for order in config.orders:
                name = f"{region}, {order}"
                if name not in scores:
                    scores[name] = measure(pipeline, cases, region, order, config)
                    write_json(output, {"settings": settings, "scores": scores})
                rate, error = scores[name][HEADLINE], scores[name]["standard_error"]
                log.info("%-16s done, all else unchanged %.3f ± %.3f", name, rate, error)
