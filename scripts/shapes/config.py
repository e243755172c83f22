"""The flags of the programs that make models of the shapes set: quickstart, train_shapes, ship_shapes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autoregressive.sequence.order_kinds import ORDER_KINDS
from runtime.config import check_ranges, option
from runtime.errors import UserError
from runtime.flags import models, shared, training
from runtime.flags.ranges import COUNT, COUNT_OR_NONE
from scripts.shapes.recipe import ShapesRecipe, scaled_steps

QUICK_STEPS = {"tokenizer": 500, "stage1": 300, "stage2": 550}
QUICK_STAGE2 = ("--mask-dilation", "4", "--supervise-marks")
PARTS = ("data", "tokenizer", "stage1", "stage2", "scores")


@dataclass(frozen=True)
class Quickstart:
    """Trains three small models on synthetic scenes, edits held-out ones, evaluates, reports."""

    results_dir: str = shared.results_dir("results/quickstart")
    steps_scale: float = training.steps_scale("the three trainings")
    num_train: int = shared.num_train(7000)
    num_test: int = shared.num_test(500)
    num_ranks: int | None = training.num_ranks("; none: 1 on a GPU, else 1, 2 or 4, one a core", None)
    seed: int = shared.seed("of data, trainings and draws")

    def recipe(self, num_ranks: int = 1) -> ShapesRecipe:
        """`num_ranks`: where the flag gives none."""
        return ShapesRecipe(
            "easy",
            self.num_train,
            self.num_test,
            scaled_steps(QUICK_STEPS, self.steps_scale),
            seed=self.seed,
            full_mask_share=0.1,
            stage2_flags=QUICK_STAGE2,
            num_ranks=self.num_ranks or num_ranks,
        )


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
    own_cell: bool = training.own_cell()
    region_share: float = training.region_share(0.8)
    region_orders: list[str] = training.region_orders([], ORDER_KINDS)
    edit_orders: list[str] = training.edit_orders([], ORDER_KINDS)
    init_gpt_ckpt: str | None = training.init_gpt_ckpt(
        "weights that stage 1 goes on from; give their tokenizer and text encoder too"
    )
    vq_ckpt: str | None = models.vq_ckpt(None, " to take instead of training one")
    t5_path: str | None = models.t5_path(", to take instead of making one")
    num_ranks: int = training.num_ranks()
    seed: int = shared.seed("of data, trainings and draws")
    until: str = shared.until(PARTS)

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        if self.init_gpt_ckpt is not None and None in (self.vq_ckpt, self.t5_path):
            raise UserError(
                f"--init-gpt-ckpt {self.init_gpt_ckpt} knows the codes and words of its own tokenizer and "
                "text encoder: give --vq-ckpt and --t5-path too"
            )
        for name in ("init_gpt_ckpt", "vq_ckpt", "t5_path"):
            if (path := getattr(self, name)) is not None and not Path(path).exists():
                raise UserError(f"--{name.replace('_', '-')} {path} does not exist")

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
            own_cell=self.own_cell,
            region_share=self.region_share,
            region_orders=tuple(self.region_orders),
            edit_orders=tuple(self.edit_orders),
            init=_absolute(self.init_gpt_ckpt),
            t5_path=_absolute(self.t5_path),
            num_ranks=self.num_ranks,
        )


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


@dataclass(frozen=True)
class ShipShapes:
    """Makes the shipped files."""

    results_dir: str = shared.results_dir("results/shapes", "what train_shapes.py has written")
    output_dir: str = shared.output_dir("pretrained_models/shapes", "where the shipped files go")
