"""The results on shapes: trains and scores what is missing, then writes tables and figures."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.texts import write_json
from scripts.reproduce.added import about_all, check_together, read_added
from scripts.reproduce.claims import judge
from scripts.reproduce.config import ReproduceResults
from scripts.reproduce.figures import draw_figures
from scripts.reproduce.numbers import Results, collect
from scripts.reproduce.report import write_report
from scripts.reproduce.rows import Prepared, data_of, data_root, make_validation, run_seed
from scripts.shapes.recipe import make_data, train_tokenizer
from scripts.shapes.step_runner import StepRunner

log = get_logger(__name__)


def run(config: ReproduceResults) -> None:
    """Runs what is not done yet, and writes RESULTS.md, results.json and figures/."""
    config = config.sizes()
    root = Path(config.results_dir).resolve()
    added = read_added(config.add)
    check_together([*(part["about"] for part in added), planned(config)])
    prepared = prepare(config, StepRunner(root))
    for number, seed in enumerate(config.seeds, start=1):
        log.info("seed %d (%d of %d): %s", seed, number, len(config.seeds), ", ".join(config.rows))
        run_seed(replace(config.recipe(), seed=seed), prepared, config.rows, config.num_scaled)
    own = collect(root, config.seeds, config.rows)
    parts = [(part["about"]["seeds"], Results.from_dict(part)) for part in added]
    results = Results.together([*parts, (config.seeds, own)])
    facts = about_all([*(part["about"] for part in added), about(config, prepared)])
    claims = judge(results)
    content = {"about": facts, **results.to_dict(), "claims": [claim.to_dict() for claim in claims]}
    write_json(root / "results.json", content)
    figures = draw_figures(results, root, config.seeds[0], config.rows)
    write_report(root / "RESULTS.md", results, claims, facts, figures, config.seeds[0])
    for claim in claims:
        print(f"{claim.words}: {claim.verdict}")
    print(f"\nRead {root / 'RESULTS.md'}")


def prepare(config: ReproduceResults, runner: StepRunner) -> Prepared:
    """Makes data and tokenizer."""
    recipe = config.recipe()
    if not config.train_tokenizer and not Path(config.vq_ckpt).exists():
        raise UserError(f"--vq-ckpt {config.vq_ckpt} does not exist; give another, or --train-tokenizer")
    make_data(recipe, runner)
    if "auto_mask" in config.rows:
        make_validation(recipe, runner.branch())
    if config.train_tokenizer:
        vq_ckpt = train_tokenizer(recipe, runner)
    else:
        vq_ckpt = str(Path(config.vq_ckpt).resolve())
        runner = runner.branch(vq_ckpt)
    variants = {}
    for name in data_of(config.rows):
        variants[name] = StepRunner(data_root(runner.root, name))
        make_data(replace(recipe, variant=name), variants[name])
        variants[name] = variants[name].branch(vq_ckpt)
    return Prepared(vq_ckpt, runner, variants)


def planned(config: ReproduceResults) -> dict[str, Any]:
    """What is known of a run before it."""
    steps = dict(config.recipe().steps)
    if not config.train_tokenizer:
        del steps["tokenizer"]
    sizes = {name: getattr(config, name) for name in ("seeds", "rows", "num_train", "num_test", "num_scaled")}
    return {**sizes, "steps": steps}


def about(config: ReproduceResults, prepared: Prepared) -> dict[str, Any]:
    """What the numbers were made with."""
    runners = [prepared.runner, *prepared.variants.values()]
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    processors = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "command": shlex.join(["python", "scripts/reproduce_results.py", *sys.argv[1:]]),
        "machine": f"{processors[0] if processors else platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": ", ".join(sorted(set().union(*(runner.commits for runner in runners)))),
        "minutes": sum(sum(runner.seconds.values()) for runner in runners) / 60,
        **planned(config),
    }
