"""The flags of train_emoji.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.config import check_ranges
from runtime.errors import UserError
from runtime.flags import models, shared, training
from scripts.shapes.recipe import ShapesRecipe, scaled_steps

STEPS = {"tokenizer": 5000, "stage1": 6500, "stage2": 4000}
PARTS = ("data", "tokenizer", "stage1", "stage2", "scores", "report")


@dataclass(frozen=True)
class TrainEmoji:
    """Prepares the emoji set, trains three models on it, evaluates them, reports."""

    package: str = shared.package()
    results_dir: str = shared.results_dir("results/emoji")
    steps_scale: float = training.steps_scale("the three trainings")
    num_train: int = shared.num_train(48000, "pairs")
    num_portraits: int = shared.num_portraits(8)
    num_sticker_names: int | None = shared.num_sticker_names(100)
    num_test: int = shared.num_test(600)
    vq_ckpt: str | None = models.vq_ckpt(None, " to take instead of training one")
    num_ranks: int = training.num_ranks()
    seed: int = shared.seed("of data, trainings and draws")
    until: str = shared.until(PARTS)

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        if not Path(self.package).exists():
            raise UserError(
                f"--package {self.package} does not exist; `npm pack emoji-datasource-google` brings the .tgz"
            )

    def recipe(self) -> ShapesRecipe:
        """As that of the shapes, of more codes, in all orders."""
        steps = scaled_steps(STEPS, self.steps_scale)
        return ShapesRecipe(
            None,
            self.num_train,
            self.num_test,
            steps,
            tokenizer_images=20000,
            vq_model="VQ-8-medium",
            codebook_size=4096,
            seed=self.seed,
            full_mask_share=0.2,
            stage1_flags=("--warmup-steps", "100"),
            stage2_flags=("--mask-dilation", "8", "--supervise-marks"),
            stage1_batch=32,
            stage2_batch=32,
            own_cell=True,
            region_share=0.5,
            region_orders=("raster", "raster", "random", "random", "reverse", "spiral"),
            edit_orders=("raster", "raster", "raster", "random"),
            num_ranks=self.num_ranks,
        )


@dataclass(frozen=True)
class ShipEmoji:
    """Makes the shipped files."""

    results_dir: str = shared.results_dir("results/emoji", "what train_emoji.py has written")
    output_dir: str = shared.output_dir("pretrained_models/emoji", "where the shipped files go")
