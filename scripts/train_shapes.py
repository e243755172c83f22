"""Trains the small models that the project ships in pretrained_models/shapes, and scores them.

    python scripts/train_shapes.py --results-dir results/shapes --num-ranks 2   # hours on two CPU cores

Data: the hard setting of the shapes set, with jittered places, gradients and textures, and all kinds of edit.
It can be stopped: steps that are done are skipped, an interrupted training goes on. What is scored are the
files in half precision that `scripts/ship_shapes.py` then ships.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from shapes_recipe import (
    ShapesRecipe,
    make_data,
    make_more_edits,
    train_stage1,
    train_stage2,
    train_tokenizer,
)
from shapes_scores import ZERO_SHOT, ZERO_SHOT_TIGHT, draw_and_score, edit_and_score
from step_runner import StepRunner

from runtime.config import option, parse
from runtime.errors import run_command
from runtime.ranges import COUNT, COUNT_OR_NONE, SEED

STEPS = ("data", "tokenizer", "stage1", "stage2", "scores")
MASKED_TEMPERATURE = 0.1
MODES = {
    "masked": ["--text", "instruction", "--turns", "single", "--temperature", str(MASKED_TEMPERATURE)]
    + ["--write-ceiling"],
    "zero_shot": [*ZERO_SHOT, "--turns", "single"],
    "zero_shot_random": [*ZERO_SHOT, "--turns", "single", "--random-order"],
    "zero_shot_tight": [*ZERO_SHOT_TIGHT, "--turns", "single"],
    "auto_mask": ["--text", "instruction", "--turns", "single", "--temperature", str(MASKED_TEMPERATURE)]
    + ["--auto-mask"],
    "full_regeneration": ["--text", "instruction", "--full-mask", "--turns", "single"],
}


@dataclass(frozen=True)
class TrainShapes:
    """Trains and scores the small models that are shipped."""

    results_dir: str = option("results/shapes", help="everything goes here")
    num_train: int = option(24000, within=COUNT, help="training edits")
    num_more: int = option(60000, within=COUNT_OR_NONE, help="further ones, for the editor alone")
    num_test: int = option(1200, within=COUNT, help="held-out edits")
    tokenizer_steps: int = option(2000, within=COUNT, help="of the tokenizer")
    stage1_steps: int = option(5000, within=COUNT, help="of the text-to-image model")
    stage2_steps: int = option(
        4000, within=COUNT, help="of the editor, with masks that are exact or far too wide"
    )
    exact_steps: int = option(1500, within=COUNT_OR_NONE, help="of the editor at last, with exact masks only")
    num_ranks: int = option(1, within=COUNT, help="processes that share a training")
    seed: int = option(0, within=SEED, help="of data, trainings and draws")
    until: str = option("scores", help="stop after this step", choices=STEPS)

    def recipe(self) -> ShapesRecipe:
        steps = {"tokenizer": self.tokenizer_steps, "stage1": self.stage1_steps, "stage2": self.stage2_steps}
        return ShapesRecipe(
            "hard",
            self.num_train,
            self.num_test,
            steps,
            tokenizer_images=20000,
            vq_model="VQ-8-medium",
            seed=self.seed,
            full_mask_share=0.4,
            # Where a region holds several objects the instruction has to tell which one is meant; and of a
            # mask that is exact or else much wider the first cell tells an object's place.
            stage2_flags=("--mask-dilation", "40", "--supervise-marks"),
            stage1_batch=32,
            stage2_batch=32,
            num_ranks=self.num_ranks,
        )


def export(runner: StepRunner, checkpoints: dict[str, str]) -> list[str]:
    """Makes the files that are scored and shipped, `weights/<name>/<name>.safetensors`, in half precision."""
    files = []
    for name, ckpt in checkpoints.items():
        folder = runner.root / "weights" / name
        files.append(str(folder / f"{name}.safetensors"))
        command = ["scripts/export_weights.py", "--ckpt", ckpt, "--output", files[-1]]
        runner.run(f"export_{name}", folder, command)
    return files


def main() -> None:
    config = parse(TrainShapes)
    runner, recipe = StepRunner(Path(config.results_dir).resolve()), config.recipe()
    make_data(recipe, runner)
    if config.until == "data":
        return
    vq_ckpt = train_tokenizer(recipe, runner)
    if config.until == "tokenizer":
        return
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
    draw_and_score(runner, vq_ckpt, t2i, seed=config.seed)


if __name__ == "__main__":
    run_command(main)
