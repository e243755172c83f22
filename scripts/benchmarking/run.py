"""One run of the benchmark: what is measured, and where the numbers go."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.texts import write_json, write_text
from scripts.benchmarking.cases import PUBLISHED, TINY
from scripts.benchmarking.config import Benchmark
from scripts.benchmarking.generation import edit_rows, generation_rows
from scripts.benchmarking.limits import describe_machine, measure_limits
from scripts.benchmarking.loader import loader_rows
from scripts.benchmarking.measure import Clock
from scripts.benchmarking.pictures import draw_pictures
from scripts.benchmarking.rows import Bench, markdown, table
from scripts.benchmarking.step_profile import profile_rows
from scripts.benchmarking.training import training_rows
from scripts.benchmarking.windows import window_rows

log = get_logger("benchmark")


def run(config: Benchmark) -> None:
    """Measures, prints the table, writes the results."""
    bench = measure(config)
    print(f"{bench.model} on {bench.machine.get('gpu', bench.machine['cpu'])}, {bench.machine['date']}")
    print(table(bench.rows))
    write_results(bench, config)


def measure(config: Benchmark) -> Bench:
    """Measures the machine, then the groups that were asked for.

    Raises:
      UserError: a GPU is asked for where there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no such device here; use cpu")
    torch.set_num_threads(config.threads)
    device = torch.device(config.device)
    machine = describe_machine(device)
    load = machine["load_average"]
    if load is not None and load > 0.3 * (os.cpu_count() or 1):
        log.warning("other programs are running (load %.1f): times will not hold, ratios may", load)
    clock = Clock(device, config.clock)
    limits = measure_limits(clock, config.dtype, quick=config.quick)
    rates = ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in limits.matrix.items())
    log.info("this machine: memory %.3g GB/s, %s", limits.bandwidth / 1e9, rates)
    bench = Bench(
        scale=TINY if config.quick else PUBLISHED,
        model="R-GPT-tiny" if config.quick else config.gpt_model,
        device=device,
        dtypes=config.dtype,
        image_sizes=[64, 96] if config.quick else config.image_size,
        repeats=1 if config.quick else config.repeats,
        baseline=config.baseline == "eager",
        quick=config.quick,
        compile=config.compile,
        limits=limits,
        machine=machine,
        clock=clock,
    )
    stages: dict[str, Callable[[], None]] = {
        "loader": lambda: loader_rows(bench),
        "prefill": lambda: generation_rows(bench, config.groups & {"prefill", "decode"}),
        "profile": lambda: profile_rows(bench),
        "edit": lambda: edit_rows(bench),
        "windows": lambda: window_rows(bench),
        "train": lambda: training_rows(bench),
    }
    for name, stage in stages.items():
        if name in config.groups or (name == "prefill" and "decode" in config.groups):
            stage()
    return bench


def write_results(bench: Bench, config: Benchmark) -> None:
    """results.json, table.md and the pictures."""
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "command": shlex.join(["python", "scripts/benchmark.py", *sys.argv[1:]]),
        "settings": asdict(config),
        "machine": bench.machine,
        "limits": asdict(bench.limits),
        "rows": [row.to_json() for row in bench.rows],
        "curves": bench.curves,
    }
    write_json(folder / "results.json", content)
    write_text(folder / "table.md", markdown(bench.rows))
    pictures = draw_pictures(bench.rows, bench.curves, folder)
    print(f"\nwritten: {', '.join(map(str, [folder / 'results.json', folder / 'table.md', *pictures]))}")
