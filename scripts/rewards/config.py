"""The flags of score_edits.py and compare_study.py, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from autoregressive.sample.flags import SampleConfig
from autoregressive.sequence.order_kinds import ORDER_KINDS
from autoregressive.train.rewards.choices import REGIONS
from dataset.choices import RULES
from runtime.config import REQUIRED, check_ranges, option
from runtime.flags import drawing, shared
from runtime.flags.ranges import COUNT


@dataclass(frozen=True)
class ScoreEdits(SampleConfig):
    """Scores an editor on a shapes test set, in several regions and orders, with the best of n samples."""

    magicbrush_path: str = shared.magicbrush_path(REQUIRED, "shapes test set, with shapes.json")
    output: str = option(REQUIRED, help="gets the numbers, as JSON; what it holds already is not made again")
    regions: list[str] = drawing.regions(["given", "found"], REGIONS, "which cells edits may change")
    orders: list[str] = drawing.orders(["raster", "random"], ORDER_KINDS, "of the edited cells")
    mask_rule: str = shared.mask_rule(RULES)
    num_edits: int = shared.num_edits(1200, "the first so many edits")
    best_of: int = option(1, within=COUNT, help="samples of each edit, of which the verifier takes the best")


@dataclass(frozen=True)
class CompareStudy:
    """Prints what rewards have changed over seeds, beside the study's baselines, as tables in Markdown."""

    results_dir: str = shared.results_dir(REQUIRED, "what rewards_study.sh has written")
    seeds: list[int] = shared.seeds([0, 1, 2], "of the study")

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        shared.require_different_seeds(self.seeds)
