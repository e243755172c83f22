"""The flags of the programs that make models of the shapes set: quickstart, train_shapes, ship_shapes."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.config import option
from runtime.flags import shared, training
from runtime.flags.ranges import COUNT, COUNT_OR_NONE
from scripts.shapes.recipe import ShapesRecipe

QUICK_STEPS = {"tokenizer": 500, "stage1": 320, "stage2": 420}
PARTS = ("data", "tokenizer", "stage1", "stage2", "scores")


@dataclass(frozen=True)
class Quickstart:
    """Trains three small models on synthetic scenes, edits held-out ones, evaluates, reports."""

    results_dir: str = shared.results_dir("results/quickstart")
    steps_scale: float = training.steps_scale("the three trainings")
    num_train: int = shared.num_train(8000)
    num_test: int = shared.num_test(500)
    seed: int = shared.seed("of data, trainings and draws")

    def recipe(self) -> ShapesRecipe:
        steps = {name: max(round(steps * self.steps_scale), 2) for name, steps in QUICK_STEPS.items()}
        return ShapesRecipe("easy", self.num_train, self.num_test, steps, seed=self.seed)


@dataclass(frozen=True)
class TrainShapes:
    """Trains and scores the small models that are shipped."""

    results_dir: str = shared.results_dir("results/shapes")
    num_train: int = shared.num_train(24000)
    num_more: int = option(60000, within=COUNT_OR_NONE, help="further ones, for the editor alone")
    num_test: int = shared.num_test(1200)
    tokenizer_steps: int = option(2000, within=COUNT, help="of the tokenizer")
    stage1_steps: int = option(5000, within=COUNT, help="of the text-to-image model")
    stage2_steps: int = option(
        4000, within=COUNT, help="of the editor, with masks that are exact or far too wide"
    )
    exact_steps: int = option(1500, within=COUNT_OR_NONE, help="of the editor at last, with exact masks only")
    num_ranks: int = training.num_ranks()
    seed: int = shared.seed("of data, trainings and draws")
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

    results_dir: str = shared.results_dir("results/shapes", "what train_shapes.py has written")
    output_dir: str = shared.output_dir("pretrained_models/shapes", "where the shipped files go")
