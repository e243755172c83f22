"""The settings of `autoregressive.editing.auto_mask`, which flags and callers give without PyTorch."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import UserError
from runtime.files import require_regular

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AutoMaskSettings:
    """From scores to a region; the defaults were chosen by `scripts/calibrate_auto_mask.py`.

    Attributes:
      threshold: share of the image's highest score that a cell must have, 0 to 1: how far a model is moved
        depends on the instruction.
      smoothing: standard deviation in cells of the Gaussian that averages the scores first; 0 for none.
      growth: cells by which the region is widened afterwards, in all eight directions.
    """

    threshold: float = 0.05
    smoothing: float = 0.3
    growth: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(
                f"auto mask threshold {self.threshold}: give a share of the highest score, 0 to 1"
            )
        if not 0 <= self.smoothing < math.inf:
            raise UserError(f"auto mask smoothing {self.smoothing}: give 0 or more cells")
        if not isinstance(self.growth, int) or self.growth < 0:
            raise UserError(f"auto mask growth {self.growth}: give a whole number of cells, 0 or more")

    def region(self, scores: Tensor, grid: int) -> Tensor:
        """The cells to edit: at least one in each row, the one with the highest smoothed score.

        The cells above the threshold fall into pieces; those without a cell near the highest score are left
        out, the others are filled to rectangles: inside of an object that becomes another, little may change.

        Args:
          scores: (B, N) nats, see `edit_scores`.
          grid: cells per side.
        Returns:
          (B, N) bool raster.
        """
        # The settings themselves are read with the flags, before PyTorch is imported.
        from autoregressive.editing.auto_mask import region_of

        return region_of(scores, grid, self.threshold, self.smoothing, self.growth)

    @classmethod
    def load(cls, path: str | Path) -> AutoMaskSettings:
        """Reads what `scripts/calibrate_auto_mask.py` wrote.

        Raises:
          UserError: a file that is missing or holds something else.
        """
        names = [field.name for field in fields(cls)]
        require_regular(path, "a file of settings")
        try:
            settings = json.loads(Path(path).read_text(encoding="utf-8-sig"))["settings"]
            return cls(**{name: settings[name] for name in names})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'{path}: needs a JSON object with "settings": {{{", ".join(names)}}}, as '
                f"scripts/calibrate_auto_mask.py writes it ({error!r})"
            ) from error

    def to_dict(self) -> dict[str, float | int]:
        return asdict(self)
