"""The work of edit_cost.py."""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from pathlib import Path

import torch

from autoregressive.sample.edit_sets import magicbrush_text
from autoregressive.sample.loading import load_pipeline, require_marked
from dataset.records.images import load_image
from dataset.records.masks import load_magicbrush_mask
from dataset.testsets.magicbrush import Turn, iterate_turns, read_descriptions, read_sessions
from runtime.distributed import distributed
from runtime.texts import write_json
from scripts.paper.cost_config import EditCost


def measure_cost(config: EditCost) -> None:
    """Edits one picture after the other and writes `cost.json`.

    Raises:
      UserError: models or a test set that cannot be read.
    """
    turns = list(iterate_turns(read_sessions(config.magicbrush_path)))
    descriptions = None
    if config.text != "instruction":
        descriptions = read_descriptions(config.magicbrush_path, config.text)
    with distributed(config.device) as ranks:
        device = ranks.device
        pipeline = load_pipeline(config, device)
        options = config.edit_options()

        def edit(turn: Turn, seed: int) -> float:
            image = load_image(turn.input_path)
            mask = require_marked(load_magicbrush_mask(str(turn.mask_path)).numpy(), turn.mask_path)
            words = magicbrush_text(turn, descriptions, None)
            start = time.perf_counter()
            pipeline.edit(image, words, None if config.full_mask else mask, seeds=seed, **options)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter() - start

        chosen = list(itertools.islice(itertools.cycle(turns), config.num_edits + 1))
        _, *seconds = (edit(turn, config.seed + number) for number, turn in enumerate(chosen))
        result = {
            "seconds": statistics.median(seconds),
            "memory_gb": _most_memory(device) / 1e9,
            "num_edits": len(seconds),
            "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        }
    write_json(Path(config.output_dir) / "cost.json", result)


def _most_memory(device: torch.device) -> int:
    """Bytes held at most: what PyTorch has reserved of a GPU, else the process's pages in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    import resource  # not on Windows

    pages = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages if sys.platform == "darwin" else 1024 * pages  # macOS counts bytes
