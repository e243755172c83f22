"""The flags of reproduce_results.py."""

from __future__ import annotations

from dataclasses import dataclass, replace

from runtime.config import option
from runtime.errors import UserError
from runtime.flags import models, shared, training
from runtime.flags.ranges import COUNT
from scripts.reproduce.rows import GROUPS
from scripts.shapes.recipe import ShapesRecipe, scaled_steps

STEPS = {"tokenizer": 1500, "stage1": 1000, "stage2": 300}
_SHIPPED = "pretrained_models/shapes/tokenizer.safetensors"


@dataclass(frozen=True)
class ReproduceResults:
    """Trains and scores every row of the results on shapes."""

    results_dir: str = shared.results_dir("results/reproduce")
    seeds: list[int] = shared.seeds([1, 2, 3, 4, 5], "of the trainings and draws")
    add: list[str] = option([], help="results.json of runs of other seeds or rows, shown with these")
    rows: list[str] = option(list(GROUPS), help="what to train, score and report", choices=GROUPS)
    vq_ckpt: str = models.vq_ckpt(_SHIPPED, "; see --train-tokenizer")
    train_tokenizer: bool = option(False, help="train the tokenizer instead, for some minutes more")
    steps_scale: float = training.steps_scale("all trainings")
    num_train: int = shared.num_train(6000)
    num_test: int = shared.num_test(500)
    num_scaled: int = option(
        200, within=COUNT, help="images, and edits, that test-time scaling is measured on"
    )
    num_ranks: int = training.num_ranks("; on CPUs one a core is fastest")
    quick: bool = shared.quick("see whether everything runs: hardly any steps and edits")

    def __post_init__(self) -> None:
        shared.require_different_seeds(self.seeds)
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
        steps = scaled_steps(STEPS, self.steps_scale)
        return ShapesRecipe(
            "hard",
            self.num_train,
            self.num_test,
            steps,
            vq_model="VQ-8-small" if self.quick else "VQ-8-medium",
            stage1_batch=32,
            stage2_batch=32,
            own_cell=True,
            num_ranks=self.num_ranks,
        )
