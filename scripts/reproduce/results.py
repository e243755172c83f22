"""The results on shapes: trains and scores what is missing, then writes tables and figures."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.files import write_atomic
from runtime.logging import get_logger
from scripts.reproduce.claims import judge
from scripts.reproduce.config import ReproduceResults
from scripts.reproduce.figures import draw_figures
from scripts.reproduce.numbers import collect
from scripts.reproduce.report import write_report
from scripts.reproduce.rows import SeedModels, make_validation, run_seed
from scripts.shapes.recipe import make_data, train_tokenizer
from scripts.shapes.step_runner import StepRunner

log = get_logger(__name__)


def run(config: ReproduceResults) -> None:
    """Runs what is not done yet, and writes RESULTS.md, results.json and figures/."""
    config = config.sizes()
    root = Path(config.results_dir).resolve()
    vq_ckpt, runner = prepare(config, StepRunner(root))
    for number, seed in enumerate(config.seeds, start=1):
        log.info("seed %d (%d of %d): %s", seed, number, len(config.seeds), ", ".join(config.rows))
        models = SeedModels(replace(config.recipe(), seed=seed), runner, vq_ckpt)
        run_seed(models, config.rows, config.num_scaled)
    results = collect(root, config.seeds, config.rows)
    claims, facts = judge(results), about(config, runner)
    content = {"about": facts, **results.to_dict(), "claims": [claim.to_dict() for claim in claims]}
    text = json.dumps(content, indent=1)
    write_atomic(root / "results.json", lambda temporary: temporary.write_text(text + "\n"))
    figures = draw_figures(results, root, config.seeds[0], config.rows)
    write_report(root / "RESULTS.md", results, claims, facts, figures)
    for claim in claims:
        print(f"{claim.words}: {claim.verdict}")
    print(f"\nRead {root / 'RESULTS.md'}")


def prepare(config: ReproduceResults, runner: StepRunner) -> tuple[str, StepRunner]:
    """Makes data and tokenizer: its checkpoint, and a runner for what depends on them."""
    recipe = config.recipe()
    if not config.train_tokenizer and not Path(config.vq_ckpt).is_file():
        raise UserError(f"--vq-ckpt {config.vq_ckpt} does not exist; give another, or --train-tokenizer")
    make_data(recipe, runner)
    if "auto_mask" in config.rows:
        make_validation(recipe, runner.branch())
    if config.train_tokenizer:
        return train_tokenizer(recipe, runner), runner
    vq_ckpt = str(Path(config.vq_ckpt).resolve())
    return vq_ckpt, runner.branch(vq_ckpt)


def about(config: ReproduceResults, runner: StepRunner) -> dict[str, Any]:
    """What the numbers were made with."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    processors = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    steps = dict(config.recipe().steps)
    if not config.train_tokenizer:
        del steps["tokenizer"]
    return {
        "command": shlex.join(["python", "scripts/reproduce_results.py", *sys.argv[1:]]),
        "machine": f"{processors[0] if processors else platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": ", ".join(sorted(runner.commits)),
        "seeds": config.seeds,
        "num_train": config.num_train,
        "num_test": config.num_test,
        "num_scaled": config.num_scaled,
        "steps": steps,
        "minutes": sum(runner.seconds.values()) / 60,
    }
