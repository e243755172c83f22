"""Times the project against a plain slow twin and against what the machine can do at most.

    python scripts/benchmark.py all                              # R-GPT-B on two CPU cores, about 20 minutes
    python scripts/benchmark.py decode --gpt-model R-GPT-XL --image-size 256 --dtype bf16
    python scripts/benchmark.py all --device cuda --gpt-model R-GPT-XL --compile

The twin (`benchmark_baseline`) is the same network with the same weights, run as the published implementation
goes about it. Both sides are run in turn in one process; what is quoted is the median, and the ratio of the
pairs. The machine's memory bandwidth and matrix rate are measured in the same run, to tell which share of
them the project reaches. Weights and data are made up. `--output-dir` gets results.json, the table as
Markdown, and pictures.

Groups: loader (training data), prefill, decode, edit (whole edits), train (forward and backward), all.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from benchmark_cases import PUBLISHED, TINY
from benchmark_generation import edit_rows, generation_rows
from benchmark_limits import DTYPES, describe_machine, measure_limits
from benchmark_loader import loader_rows
from benchmark_pictures import draw_pictures
from benchmark_rows import Bench, markdown, table
from benchmark_training import training_rows

from autoregressive.models.config import GPT_MODELS
from runtime.config import argument, option, parse
from runtime.errors import UserError, run_command
from runtime.files import write_atomic
from runtime.logging import get_logger
from runtime.ranges import COUNT, SIZE, THREADS

log = get_logger("benchmark")
GROUPS = ("loader", "prefill", "decode", "edit", "train")
# The slow twin turns queries and keys as published.
MODELS = sorted(n for n, config in GPT_MODELS.items() if config.any_order and config.query_turn == "cells")
LEAST_REPEATS = 5  # fewer make no median worth quoting


@dataclass(frozen=True)
class Benchmark:
    """Times the project against a plain slow twin and against the machine's limits."""

    group: str = argument(f"what to measure: {', '.join(GROUPS)} or all")
    device: str = option("cpu", help="cpu or cuda")
    dtype: list[str] = option(["fp32", "bf16"], help="types of the weights", choices=sorted(DTYPES))
    image_size: list[int] = option(
        [256, 512], within=SIZE, help="pixels; a CPU edits and trains at the first only"
    )
    gpt_model: str = option("R-GPT-B", help="transformer size", choices=MODELS)
    baseline: str = option("eager", help="the slow twin, or none", choices=["eager", "none"])
    repeats: int = option(LEAST_REPEATS, within=COUNT, help="counted runs of each side")
    threads: int = option(2, within=THREADS, help="CPU threads; the CPU targets are for two")
    output_dir: str = option("results/benchmark", help="folder for results.json and the pictures")
    compile: bool = option(False, help="compile the project's decoding and training steps: for GPUs")
    quick: bool = option(False, help="a tiny network and tiny images: tries the benchmark, measures nothing")

    def __post_init__(self) -> None:
        if self.group not in (*GROUPS, "all"):
            raise UserError(f"{self.group!r} cannot be measured; choose one of {', '.join(GROUPS)} or all")
        if self.device not in ("cpu", "cuda"):
            raise UserError(f"--device {self.device} is not known; use cpu or cuda")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: there is no such device here; use cpu")
        least = 1 if self.quick else LEAST_REPEATS
        if self.repeats < least:
            raise UserError(f"--repeats {self.repeats} is too few for a median; use {least} or more")
        bad = [size for size in self.image_size if size % 16 or size < 32]
        if bad:
            raise UserError(f"--image-size {bad[0]} is not a multiple of 16 from 32 on")
        if self.threads < 1:
            raise UserError(f"--threads {self.threads}: at least 1")

    @property
    def groups(self) -> set[str]:
        return set(GROUPS) if self.group == "all" else {self.group}


def measure(config: Benchmark) -> Bench:
    """Measures the machine, then the groups that were asked for."""
    torch.set_num_threads(config.threads)
    device = torch.device(config.device)
    machine = describe_machine(device)
    load = machine["load_average"]
    if load is not None and load > 0.3 * (os.cpu_count() or 1):
        log.warning("other programs are running (load %.1f): times will not hold, ratios may", load)
    limits = measure_limits(device, quick=config.quick)
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
    )
    stages: dict[str, Callable[[], None]] = {
        "loader": lambda: loader_rows(bench),
        "prefill": lambda: generation_rows(bench, config.groups & {"prefill", "decode"}),
        "edit": lambda: edit_rows(bench),
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
    text = json.dumps(content, indent=1) + "\n"
    write_atomic(folder / "results.json", lambda path: path.write_text(text))
    write_atomic(folder / "table.md", lambda path: path.write_text(markdown(bench.rows)))
    pictures = draw_pictures(bench.rows, bench.curves, folder)
    print(f"\nwritten: {', '.join(map(str, [folder / 'results.json', folder / 'table.md', *pictures]))}")


def main() -> None:
    config = parse(Benchmark)
    bench = measure(config)
    print(f"{bench.model} on {bench.machine.get('gpu', bench.machine['cpu'])}, {bench.machine['date']}")
    print(table(bench.rows))
    write_results(bench, config)


if __name__ == "__main__":
    run_command(main)
