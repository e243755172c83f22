"""The training of the small models that are shipped, and their scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from runtime.config import dump_config
from scripts.shapes.config import TrainShapes
from scripts.shapes.recipe import make_data, make_more_edits, take_tokenizer, train_stage1, train_stage2
from scripts.shapes.scores import (
    MASKED_TEMPERATURE,
    ZERO_SHOT,
    ZERO_SHOT_TIGHT,
    draw_and_score,
    edit_and_score,
)
from scripts.shapes.step_runner import StepRunner

OTHER_ORDERS = ("random", "reverse", "spiral")
"""In-mask orders that are scored beside raster order."""
_MASKED = ("--text", "instruction", "--turns", "single", "--temperature", str(MASKED_TEMPERATURE))
MODES = {
    "masked": [*_MASKED, "--write-ceiling"],
    **{f"masked_{order}": [*_MASKED, "--order", order] for order in OTHER_ORDERS},
    "zero_shot": [*ZERO_SHOT, "--turns", "single"],
    **{f"zero_shot_{order}": [*ZERO_SHOT, "--turns", "single", "--order", order] for order in OTHER_ORDERS},
    "zero_shot_tight": [*ZERO_SHOT_TIGHT, "--turns", "single"],
    "auto_mask": [*_MASKED, "--auto-mask"],
    "full_regeneration": ["--text", "instruction", "--full-mask", "--turns", "single"],
}
DRAWINGS = {"drawings": "raster", "drawings_random": "random"}
"""Text to image: the folder of the scores, and the order."""


def export(runner: StepRunner, checkpoints: dict[str, str]) -> list[str]:
    """Makes the files that are scored and shipped, `weights/<name>/<name>.safetensors`, in half precision."""
    files = []
    for name, ckpt in checkpoints.items():
        folder = runner.root / "weights" / name
        files.append(str(folder / f"{name}.safetensors"))
        command = ["scripts/export_weights.py", "--ckpt", ckpt, "--output", files[-1]]
        runner.run(f"export_{name}", folder, command)
    return files


def run(config: TrainShapes) -> None:
    """Makes and scores the models, as far as `--until`."""
    runner, recipe = StepRunner(Path(config.results_dir).resolve()), config.recipe()
    dump_config(config, runner.root)
    make_data(recipe, runner)
    if config.until == "data":
        return
    vq_ckpt, runner = take_tokenizer(recipe, runner, config.vq_ckpt)
    if config.until == "tokenizer":
        return
    if recipe.init is not None:
        runner = runner.branch(recipe.init)
    stage1 = train_stage1(recipe, runner, vq_ckpt)
    if config.until == "stage1":
        return
    # Of pairs that it has seen a few times the editor has nothing more to learn.
    make_more_edits(recipe, runner, "more_edits", config.num_more)
    data = ("data", "more_edits")
    stage2 = train_stage2(recipe, runner, vq_ckpt, stage1, data=data)
    # Of something to add only the mask says where it stands: slightly wider ones would say it wrongly.
    steps = {**recipe.steps, "stage2": config.exact_steps}
    exact = replace(recipe, stage2_flags=("--supervise-marks",), steps=steps)
    stage2 = train_stage2(exact, runner, vq_ckpt, stage2, "stage2_exact", data=data)
    if config.until == "stage2":
        return
    vq_ckpt, t2i, editing = export(runner, {"tokenizer": vq_ckpt, "t2i": stage1, "editing": stage2})
    for mode, flags in MODES.items():
        gpt_ckpt = t2i if mode.startswith("zero_shot") else editing
        ceiling = runner.root / "edits" / "masked" / "ceiling"
        edit_and_score(runner, mode, vq_ckpt, gpt_ckpt, flags, seed=config.seed, ceiling=ceiling)
    for name, order in DRAWINGS.items():
        draw_and_score(runner, name, vq_ckpt, t2i, order, seed=config.seed)
