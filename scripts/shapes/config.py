"""The flags of the programs that make models of the shapes set: quickstart, train_shapes, ship_shapes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autoregressive.sequence.order_kinds import ORDER_KINDS
from runtime.config import check_ranges, option
from runtime.errors import UserError
from runtime.flags.ranges import COUNT, COUNT_OR_NONE, SCALE, SEED, SHARE
from scripts.shapes.recipe import ShapesRecipe

QUICK_STEPS = {"tokenizer": 500, "stage1": 320, "stage2": 600}
QUICK_STAGE2 = ("--mask-dilation", "4", "--supervise-marks")
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
        return ShapesRecipe(
            "easy", self.num_train, self.num_test, steps, seed=self.seed, stage2_flags=QUICK_STAGE2
        )


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
    own_cell: bool = option(False, help="both stages tell each slot its own cell")
    region_share: float = option(
        0.8, within=SHARE, help="of stage 1's samples, that are drawn as zero-shot edits"
    )
    region_orders: list[str] = option(
        [], choices=ORDER_KINDS, help="of their regions, one a sample (default: the trainer's)"
    )
    edit_orders: list[str] = option(
        [], choices=ORDER_KINDS, help="of the editor's cells, one a sample (default: the trainer's)"
    )
    init_gpt_ckpt: str | None = option(
        None, help="weights that stage 1 goes on from; give their tokenizer and text encoder too"
    )
    vq_ckpt: str | None = option(None, help="tokenizer to take instead of training one")
    t5_path: str | None = option(None, help="text encoder to take instead of making one")
    num_ranks: int = option(1, within=COUNT, help="processes that share a training")
    seed: int = option(0, within=SEED, help="of data, trainings and draws")
    until: str = option("scores", help="stop after this step", choices=PARTS)

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

    results_dir: str = option("results/shapes", help="what train_shapes.py has written")
    output_dir: str = option("pretrained_models/shapes", help="where the shipped files go")
