"""The flags of benchmark.py."""

from __future__ import annotations

from dataclasses import dataclass

from autoregressive.models.config import GPT_MODELS
from runtime.config import argument, option
from runtime.errors import UserError
from runtime.flags import models, shared
from runtime.flags.ranges import COUNT, THREADS

GROUPS = ("loader", "prefill", "decode", "profile", "edit", "windows", "train")
# The slow twin turns queries and keys as published.
MODELS = sorted(n for n, config in GPT_MODELS.items() if config.any_order and config.query_turn == "cells")
LEAST_REPEATS = 5  # fewer make no median worth quoting


@dataclass(frozen=True)
class Benchmark:
    """Times the project against a plain slow twin and against the machine's limits."""

    group: str = argument(f"what to measure: {', '.join(GROUPS)} or all")
    device: str = option("cpu", help="cpu or cuda")
    dtype: list[str] = option(["fp32", "bf16"], help="types of the weights", choices=["bf16", "fp32"])
    image_size: list[int] = models.image_size(
        [256, 512], "the images in pixels; a CPU edits and trains at the first only"
    )
    gpt_model: str = models.gpt_model("R-GPT-B", MODELS)
    baseline: str = option("eager", help="the slow twin, or none", choices=["eager", "none"])
    repeats: int = option(LEAST_REPEATS, within=COUNT, help="counted runs of each side")
    threads: int = option(2, within=THREADS, help="CPU threads; the CPU targets are for two")
    clock: str = option(
        "wall",
        help="cpu: the processor time of this process, where other programs share the cores; with one thread",
        choices=["wall", "cpu"],
    )
    output_dir: str = shared.output_dir("results/benchmark", "folder for results.json and the pictures")
    compile: bool = shared.compile("the project's decoding and training steps: for GPUs")
    quick: bool = shared.quick("a tiny network and tiny images: tries the benchmark, measures nothing")

    def __post_init__(self) -> None:
        if self.group not in (*GROUPS, "all"):
            raise UserError(f"{self.group!r} cannot be measured; choose one of {', '.join(GROUPS)} or all")
        if self.device not in ("cpu", "cuda"):
            raise UserError(f"--device {self.device} is not known; use cpu or cuda")
        least = 1 if self.quick else LEAST_REPEATS
        if self.repeats < least:
            raise UserError(f"--repeats {self.repeats} is too few for a median; use {least} or more")
        bad = [size for size in self.image_size if size % 16 or size < 32]
        if bad:
            raise UserError(f"--image-size {bad[0]} is not a multiple of 16 from 32 on")
        if self.threads < 1:
            raise UserError(f"--threads {self.threads}: at least 1")
        if self.clock == "cpu" and (self.threads > 1 or self.device != "cpu" or "loader" in self.groups):
            raise UserError(
                "--clock cpu is the time of one thread on a CPU: give --threads 1 and --device cpu, and no "
                "loader, whose workers it would leave out"
            )

    @property
    def groups(self) -> set[str]:
        return set(GROUPS) if self.group == "all" else {self.group}
