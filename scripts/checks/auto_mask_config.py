"""The flags of calibrate_auto_mask.py."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from autoregressive.editing.auto_mask_settings import AutoMaskSettings
from autoregressive.sample.flags import SampleConfig
from dataset.choices import RULES
from runtime.config import REQUIRED, option
from runtime.flags import shared
from runtime.flags.ranges import COUNT_OR_NONE, SHARE, WEIGHT


@dataclass(frozen=True)
class CalibrateAutoMask(SampleConfig):
    """Chooses the settings of --mask auto on a validation set; the flags of the draws have no effect."""

    magicbrush_path: str = shared.magicbrush_path(REQUIRED, "validation set: edit_sessions.json and images/")
    output: str = option("auto_mask.json", help="where the chosen settings and the whole table go")
    mask_rule: str = shared.mask_rule(RULES, "true pixel mask to cells")
    num_edits: int = shared.num_edits(0, "use the first of the edits only; 0 for all", COUNT_OR_NONE)
    thresholds: list[float] = option(
        [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5], within=SHARE, help="shares to try"
    )
    smoothings: list[float] = option(
        [0, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5], within=WEIGHT, help="standard deviations in cells to try"
    )
    growths: list[int] = option([0, 1, 2, 3], within=COUNT_OR_NONE, help="cells to try")

    def grid_of_settings(self) -> list[AutoMaskSettings]:
        """Every combination of the values to try."""
        values = product(self.thresholds, self.smoothings, self.growths)
        return [AutoMaskSettings(*combination) for combination in values]
