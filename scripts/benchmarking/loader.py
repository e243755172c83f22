"""Loader rows: packed data and images against pixels, padded text and dense masks."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.utils.data import DataLoader

import scripts.benchmarking.project as project
from scripts.benchmarking.baseline_data import SlowEdits
from scripts.benchmarking.cases import write_images, write_packed
from scripts.benchmarking.measure import Comparison, bytes_of, in_turn
from scripts.benchmarking.rows import Bench

WORKERS, BATCH = 2, 8
SAMPLES = {"slow": 48, "image": 96, "packed": 2048}  # a pass; each takes seconds


def loader_rows(bench: Bench) -> None:
    """Both loaders read the same files with two workers each; only what they hand over is used."""
    for size in bench.image_sizes:
        with TemporaryDirectory() as folder:
            _rows_of(bench, size, Path(folder))


def _rows_of(bench: Bench, size: int, folder: Path) -> None:
    scale, grid = bench.scale, round(bench.scale.cells(size) ** 0.5)
    samples = {name: 2 * BATCH if bench.quick else count for name, count in SAMPLES.items()}
    jsonl = write_images(folder, scale, 8 if bench.quick else 32)
    write_packed(folder / "packed", scale, size, 64 if bench.quick else 512)
    slow = DataLoader(
        SlowEdits(jsonl, size, grid, samples["slow"]),
        BATCH,
        num_workers=WORKERS,
        persistent_workers=True,
    )
    images = project.image_dataset(jsonl, size, grid, scale.caption_dim)
    packed = project.packed_dataset(folder / "packed")
    fast = {
        "packed": project.loader(packed, samples["packed"], BATCH, WORKERS),
        "image": project.loader(images, samples["image"], BATCH, WORKERS),
    }
    setting = f"{WORKERS} workers, batches of {BATCH}"
    slow_bytes = bytes_of(next(iter(slow))) / BATCH  # the same for every sample
    for name, loader in fast.items():
        shipped = 0
        for batch in loader:
            assert batch.valid.all(), "a sample that cannot be used would be quick to load"
            shipped += bytes_of(batch)
        sides = {"fast": _pass(loader, samples[name]), "slow": bench.slow(_pass(slow, samples["slow"]))}
        measured = in_turn(sides, bench.repeats, f"{name} loader, {size} px")
        bench.add("loader", f"{name} loader, time per sample", size, setting, measured.compare("sample"))
        compared = Comparison.of([shipped / samples[name]], [slow_bytes] if bench.baseline else None)
        bench.add("loader", f"{name} loader, bytes per sample", size, "", compared, unit="B")


def _pass(loader: DataLoader, num_samples: int) -> Callable[[], dict[str, float]]:
    """Reads all samples once."""

    def run() -> dict[str, float]:
        start = time.perf_counter()
        for _ in loader:
            pass
        return {"sample": (time.perf_counter() - start) / num_samples}

    return run
