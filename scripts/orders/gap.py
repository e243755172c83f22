"""The gap between orders against samples seen and model size: the work of order_gap.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.texts import write_json
from scripts.orders.added import SAME, added_rows
from scripts.orders.config import BATCH, DATA, OrderGap
from scripts.orders.cost import report_cost
from scripts.orders.picture import draw_gap, write_table
from scripts.shapes.recipe import ShapesRecipe, make_data, pack_images, train_stage1
from scripts.shapes.scores import ZERO_SHOT_WIDENING
from scripts.shapes.step_runner import StepRunner

log = get_logger(__name__)


def run(config: OrderGap) -> None:
    """Trains and scores what is missing; writes numbers and figure after every model."""
    config = config.sizes()
    if not Path(config.vq_ckpt).exists():
        raise UserError(f"--vq-ckpt {config.vq_ckpt} does not exist; give the tokenizer's checkpoint")
    if config.dry_run:
        report_cost(config)
        return
    root, rows = Path(config.results_dir).resolve(), added_rows(config)
    runners, packed = {}, {}
    for name in config.data:
        runners[name] = StepRunner(root / name)
        made = recipe(config, name)
        make_data(made, runners[name])
        runners[name] = runners[name].branch(config.vq_ckpt)
        packed[name] = pack_images(made, runners[name], str(Path(config.vq_ckpt).resolve()))
    # Short trainings first, so that a run that was stopped has whole curves of fewer points.
    for samples in config.points:
        for name in config.data:
            for model in config.gpt_models:
                rows += score(config, runners[name].branch(), packed[name], name, model, samples)
                write(root, rows)
    print(f"Read {root / 'order_gap.csv'}, look at {root / 'order_gap.png'}")


def recipe(config: OrderGap, data: str, model: str = "R-GPT-mini", samples: int = BATCH) -> ShapesRecipe:
    """Of one training."""
    return ShapesRecipe(
        "hard",
        config.num_train,
        config.num_test,
        {"stage1": max(samples // BATCH, 1)},
        gpt_model=model,
        seed=config.seed,
        variant=DATA[data][0],
        own_cell=True,
        region_orders=tuple(config.orders),
        stage1_batch=BATCH,
        num_ranks=config.num_ranks,
    )


def score(
    config: OrderGap, runner: StepRunner, packed: Path, data: str, model: str, samples: int
) -> list[dict[str, Any]]:
    """Trains a model on the packed images and measures it: a row an order."""
    name = f"{model}_{samples}"
    made = recipe(config, data, model, samples)
    vq_ckpt = str(Path(config.vq_ckpt).resolve())
    ckpt = train_stage1(made, runner, vq_ckpt, f"trained/{name}", packed)
    folder = runner.root / "scores" / name
    runner.run(
        f"score_{name}",
        folder,
        ["scripts/orders/score_orders.py", "--vq-ckpt", vq_ckpt, "--gpt-ckpt", ckpt]
        + ["--t5-path", str(runner.root / "t5"), "--magicbrush-path", str(runner.root / "data" / "test")]
        + ["--orders", *config.orders, "--num-edits", str(config.num_test)]
        + ["--mask-error", str(ZERO_SHOT_WIDENING)]
        + ["--cfg-scale", "1", "--temperature", "0.5", "--batch-size", "64", "--seed", str(config.seed)]
        + ["--output", str(folder / "orders.json")],
    )
    found = json.loads((folder / "orders.json").read_text())["orders"]
    about = {"data": data, "model": model, "samples": samples}
    about |= {setting: getattr(config, setting) for setting in SAME}
    return [about | {"order": order} | numbers for order, numbers in found.items()]


def write(root: Path, rows: list[dict[str, Any]]) -> None:
    """order_gap.json, .csv and .png."""
    write_json(root / "order_gap.json", rows)
    write_table(rows, root / "order_gap.csv")
    draw_gap(rows, root / "order_gap.png")
