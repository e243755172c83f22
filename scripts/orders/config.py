"""The flags of score_orders.py and order_gap.py, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from autoregressive.models.config import GPT_MODELS
from autoregressive.sample.flags import SampleConfig
from autoregressive.sequence.order_kinds import ORDER_KINDS
from runtime.config import REQUIRED, check_ranges, option
from runtime.errors import UserError
from runtime.flags import drawing, models, shared, training
from runtime.flags.ranges import COUNT

ORDERS = ("raster", "random", "reverse", "spiral")
SIZES = ("R-GPT-micro", "R-GPT-mini", "R-GPT-midi")
BATCH = 32
"""Samples of a training step."""
# Name: the variant of the hard setting, and what its panel says.
DATA = {
    "unspoken": (None, "offsets that no caption names"),
    "named_offsets": ("named_offsets", "captions name the offsets"),
}
_SHIPPED = "pretrained_models/shapes/tokenizer.safetensors"


@dataclass(frozen=True)
class ScoreOrders(SampleConfig):
    """Scores a stage-1 model's zero-shot edits in several in-mask orders: verifier, and likelihood."""

    magicbrush_path: str = shared.magicbrush_path(REQUIRED, "shapes test set, with shapes.json")
    output: str = option(REQUIRED, help="gets the numbers, as JSON")
    orders: list[str] = drawing.orders(ORDERS, ORDER_KINDS, "in which regions are drawn")
    mask_error: int = shared.mask_error()
    num_edits: int = shared.num_edits(500, "the first so many edits with a region")

    @property
    def wants_drawing(self) -> bool:
        return True


@dataclass(frozen=True)
class OrderGap:
    """Trains stage 1 at several sizes and lengths, and measures what each in-mask order costs."""

    results_dir: str = shared.results_dir("results/order_gap")
    data: list[str] = option(["unspoken", "named_offsets"], choices=tuple(DATA), help="what to train on")
    gpt_models: list[str] = option(list(SIZES), choices=sorted(GPT_MODELS), help="model sizes")
    samples: list[int] = option(
        [8000, 16000, 32000, 64000], within=COUNT, help=f"images seen, {BATCH} a step; a training each"
    )
    orders: list[str] = drawing.orders(ORDERS, ORDER_KINDS, "to train regions in, and to measure")
    num_train: int = shared.num_train(12000)
    num_test: int = shared.num_test(700, "; those of the background have no region")
    vq_ckpt: str = models.vq_ckpt(_SHIPPED)
    seed: int = shared.seed("of data, trainings and draws")
    add: list[str] = option([], help="order_gap.json of runs of other models, shown together with these")
    num_ranks: int = training.num_ranks()
    dry_run: bool = training.dry_run("time a step of each size and say how many hours all takes")
    quick: bool = shared.quick("see whether everything runs: two minutes, numbers without meaning")

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        for name in ("data", "gpt_models", "samples", "orders"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                words = " ".join(map(str, values))
                raise UserError(f"--{name.replace('_', '-')} {words}: give different ones, at least one")
        if raster := [name for name in self.gpt_models if not GPT_MODELS[name].any_order]:
            raise UserError(f"--gpt-models {raster[0]} draws in raster order only: give R-GPT models")

    def sizes(self) -> OrderGap:
        """The configuration that is run: with `--quick` a tiny one."""
        if not self.quick:
            return self
        short = {"samples": [2 * BATCH, 4 * BATCH], "num_train": 60, "num_test": 12}
        return replace(self, data=self.data[:1], gpt_models=self.gpt_models[:2], **short)

    @property
    def points(self) -> list[int]:
        """Images seen, rising, as whole steps."""
        return [BATCH * steps for steps in sorted({max(count // BATCH, 1) for count in self.samples})]
