"""Zero-shot edits in several in-mask orders, and their likelihood: the work of score_orders.py.

Letters: B batch, N cells.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoregressive.editing.arguments import EditOptions, as_regions
from autoregressive.editing.crop import cells_of, changed_region, compose
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sample.loading import load_pipeline
from autoregressive.scaling.likelihood import log_likelihood
from autoregressive.sequence.builders import t2i_layout
from autoregressive.sequence.orders import drawing_orders, raster_edit_order
from dataset.records.images import load_image
from dataset.records.masks import load_magicbrush_mask
from dataset.shapes.edits import EditExample
from dataset.testsets.magicbrush import Turn, read_descriptions
from evaluations.editing.verification import verifier_table, verify_example
from runtime.distributed import distributed
from runtime.errors import UserError
from runtime.files import path_sha256
from runtime.logging import get_logger, progress
from runtime.texts import write_json
from scripts.orders.config import ScoreOrders
from scripts.shapes.held_out import read_held_out

log = get_logger(__name__)


@dataclass(frozen=True)
class RegionEdits:
    """Edits of regions as codes.

    Attributes:
      source, wanted: (B, N) codes before the edit and after it; they differ in `cells` alone.
      cells: (B, N) bool, the regions.
      text, text_valid: of the captions of the results.
      seeds: of the draws.
    """

    source: Tensor
    wanted: Tensor
    cells: Tensor
    text: Tensor
    text_valid: Tensor
    seeds: list[int]


def read_edits(config: ScoreOrders) -> list[tuple[Turn, str, EditExample]]:
    """The test set's edits that have a region, with the caption of the result and the true scenes."""
    root = Path(config.magicbrush_path)
    captions = read_descriptions(root, "global")
    found = [
        (turn, captions[turn.session_id][turn.output_path.name], example)
        for turn, example in read_held_out(root)
        if example.edit.place is not None
    ]
    if not found:
        raise UserError(f"{root} holds no edit with a region")
    return found[: config.num_edits]


def encode_edits(
    pipeline: EditingPipeline, edits: list[tuple[Turn, str, EditExample]], config: ScoreOrders
) -> RegionEdits:
    """What the model sees of the edits."""
    turns = [turn for turn, _, _ in edits]
    images = [load_image(turn.input_path) for turn in turns]
    how = EditOptions(mask_rule="exact", mask_error=config.mask_error).over(pipeline.defaults)
    masks = [load_magicbrush_mask(turn.mask_path).numpy() for turn in turns]
    regions = as_regions(masks, images, how.mask_error)
    cells = torch.stack([cells_of(region, pipeline.grid, how.mask_rule) for region in regions])
    source = pipeline.encode(images).cpu()
    results = pipeline.encode([load_image(turn.output_path) for turn in turns]).cpu()
    text, text_valid = pipeline.encode_texts([caption for _, caption, _ in edits])
    seeds = [zlib.crc32(f"{config.seed} {turn.session_id} {turn.number}".encode()) for turn in turns]
    return RegionEdits(source, torch.where(cells, results, source), cells, text, text_valid, seeds)


def region_nll(pipeline: EditingPipeline, edits: RegionEdits, order: str) -> Tensor:
    """(B,) negative log-likelihood in nats of the true region, its cells predicted in an order of that kind.

    The kept cells come first, in raster order, as in a zero-shot edit.
    """
    drawn, raster = drawing_orders(order, edits.seeds, edits.cells), raster_edit_order(edits.cells)
    counts = edits.cells.sum(1).tolist()
    rows = zip(raster, drawn, counts, strict=True)
    orders = torch.stack([torch.cat([kept[n:], region[:n]]) for kept, region, n in rows])
    layout = t2i_layout(edits.wanted, orders, edits.text_valid)
    return -(log_likelihood(pipeline.transformer, layout, edits.text, orders) * edits.cells).sum(1)


def draw_edits(
    pipeline: EditingPipeline,
    batch: list[tuple[Turn, str, EditExample]],
    edits: RegionEdits,
    order: str,
    config: ScoreOrders,
) -> list[dict[str, Any]]:
    """The verifier's verdicts on edits drawn in an order."""
    codes = pipeline.token_editor.edit(
        edits.source,
        edits.cells,
        edits.text,
        edits.text_valid,
        edits.seeds,
        config.sampling(),
        "zero_shot",
        order=order,
    ).codes
    verdicts = []
    for (turn, _, example), decoded, cells in zip(batch, pipeline.decode(codes), edits.cells, strict=True):
        image = load_image(turn.input_path)
        region = changed_region("cells", cells, None, pipeline.grid, image.size)
        verdicts.append(verify_example(np.asarray(compose(image, decoded, region)), example))
    return verdicts


def measure(pipeline: EditingPipeline, config: ScoreOrders) -> dict[str, dict[str, Any]]:
    """Of each order the verifier's rates, "nll" (mean over regions, nats) and "nll_standard_error"."""
    everything = read_edits(config)
    verdicts: dict[str, list] = {order: [] for order in config.orders}
    likelihoods: dict[str, list[Tensor]] = {order: [] for order in config.orders}
    with progress(total=len(everything), desc="orders", unit="edit") as bar:
        for start in range(0, len(everything), config.batch_size):
            batch = everything[start : start + config.batch_size]
            edits = encode_edits(pipeline, batch, config)
            for order in config.orders:
                likelihoods[order].append(region_nll(pipeline, edits, order))
                verdicts[order] += draw_edits(pipeline, batch, edits, order, config)
            bar.update(len(batch))
    scores = {}
    for order in config.orders:
        nll = torch.cat(likelihoods[order]).double()
        error = nll.std().item() / len(nll) ** 0.5 if len(nll) > 1 else None
        scores[order] = {
            **verifier_table(verdicts[order]),
            "nll": nll.mean().item(),
            "nll_standard_error": error,
            "num_edits": len(nll),
        }
    return scores


def score_orders(config: ScoreOrders) -> None:
    """Writes the numbers, and prints them."""
    with distributed(config.device) as ranks:
        pipeline = load_pipeline(config, ranks.device)
        pipeline.token_editor.resolve_mode("zero_shot")
        scores = measure(pipeline, config)
    settings = {
        "gpt_ckpt_sha256": path_sha256(config.gpt_ckpt),
        "mask_error": config.mask_error,
        "temperature": config.temperature,
        "seed": config.seed,
    }
    write_json(Path(config.output), {"settings": settings, "orders": scores})
    for order, found in scores.items():
        log.info(
            "%-10s done, all else unchanged %.3f; one offset fits all %s; NLL %.2f nats a region",
            order,
            found["passed_and_unchanged"],
            "–" if found["one_offset"] is None else f"{found['one_offset']:.3f}",
            found["nll"],
        )
