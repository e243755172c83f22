"""Trains and scores every row of the results on shapes, for several seeds; writes tables and figures.

    python scripts/reproduce_results.py --seeds 0 1 2      # about two hours on two CPU cores; can be stopped

Data and tokenizer are the same for all seeds; stage 1 and five variants of stage 2 are trained for each.
Steps that are done are skipped, an interrupted training goes on. Writes RESULTS.md, results.json, figures/.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reproduce_claims import judge
from reproduce_figures import draw_figures
from reproduce_numbers import collect
from reproduce_report import write_report
from reproduce_rows import GROUPS, SeedModels, make_validation, run_seed
from shapes_recipe import ShapesRecipe, make_data, train_tokenizer
from step_runner import StepRunner

from runtime.config import option, parse
from runtime.errors import UserError, run_command
from runtime.files import write_atomic
from runtime.logging import get_logger
from runtime.ranges import COUNT, SCALE, SEED

log = get_logger(__name__)

STEPS = {"tokenizer": 1500, "stage1": 1000, "stage2": 300}
_SHIPPED = "pretrained_models/shapes/tokenizer.safetensors"


@dataclass(frozen=True)
class ReproduceResults:
    """Trains and scores every row of the results on shapes."""

    results_dir: str = option("results/reproduce", help="everything goes here")
    seeds: list[int] = option([0, 1, 2], within=SEED, help="of the trainings and draws")
    rows: list[str] = option(list(GROUPS), help="what to train, score and report", choices=GROUPS)
    vq_ckpt: str = option(_SHIPPED, help="tokenizer checkpoint; see --train-tokenizer")
    train_tokenizer: bool = option(False, help="train the tokenizer instead, for some minutes more")
    steps_scale: float = option(1.0, within=SCALE, help="multiplies the steps of all trainings")
    num_train: int = option(6000, within=COUNT, help="training edits")
    num_test: int = option(500, within=COUNT, help="held-out edits")
    num_scaled: int = option(
        200, within=COUNT, help="images, and edits, that test-time scaling is measured on"
    )
    num_ranks: int = option(
        1, within=COUNT, help="processes that share a training; on CPUs one a core is fastest"
    )
    quick: bool = option(False, help="see whether everything runs: hardly any steps and edits")

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"--seeds {' '.join(map(str, self.seeds))}: give different seeds, at least one")
        if not 1 <= self.num_scaled <= self.num_test:
            raise UserError(
                f"--num-scaled {self.num_scaled}: take 1 to {self.num_test}, the --num-test edits"
            )

    def sizes(self) -> ReproduceResults:
        """The configuration that is run: with `--quick` a tiny one."""
        if not self.quick:
            return self
        return replace(self, steps_scale=0.005, num_train=60, num_test=6, num_scaled=4)

    def recipe(self) -> ShapesRecipe:
        steps = {name: max(round(steps * self.steps_scale), 2) for name, steps in STEPS.items()}
        return ShapesRecipe(
            "hard",
            self.num_train,
            self.num_test,
            steps,
            vq_model="VQ-8-small" if self.quick else "VQ-8-medium",
            stage1_batch=32,
            stage2_batch=32,
            num_ranks=self.num_ranks,
        )


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


def main() -> None:
    config = parse(ReproduceResults).sizes()
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


if __name__ == "__main__":
    run_command(main)
