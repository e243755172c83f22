"""The flags of the programs that make models of the shapes set: quickstart, train_shapes, ship_shapes."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.config import option
from runtime.flags.ranges import COUNT, COUNT_OR_NONE, SCALE, SEED
from scripts.shapes.recipe import ShapesRecipe

QUICK_STEPS = {"tokenizer": 500, "stage1": 320, "stage2": 420}
PARTS = ("data", "tokenizer", "stage1", "stage2", "scores")


@dataclass(frozen=True)
class Quickstart:
    """Trains three small models on synthetic scenes, edits held-out ones, evaluates, reports."""

    results_dir: str = option("results/quickstart", help="everything goes here")
    steps_scale: float = option(1.0, within=SCALE, help="multiplies the steps of the three trainings")
    num_train: int = option(8000, within=COUNT, help="training edits")
    num_test: int = option(500, within=COUNT, help="held-out edits")
    seed: int = option(0, within=SEED, help="of data, trainings and draws")

    def recipe(self) -> ShapesRecipe:
        steps = {name: max(round(steps * self.steps_scale), 2) for name, steps in QUICK_STEPS.items()}
        return ShapesRecipe("easy", self.num_train, self.num_test, steps, seed=self.seed)


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
    until: str = option("scores", help="stop after this step", choices=PARTS)

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


@dataclass(frozen=True)
class ShipShapes:
    """Makes the shipped files."""

    results_dir: str = option("results/shapes", help="what train_shapes.py has written")
    output_dir: str = option("pretrained_models/shapes", help="where the shipped files go")
