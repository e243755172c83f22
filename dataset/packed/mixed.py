"""Several datasets as one."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from torch.utils.data import Dataset

from dataset.batches import EditSample, T2ISample
from dataset.records.jsonl import locate
from runtime.errors import UserError

_MIX = 4  # first word of the entropy, so that the choice shares its random stream with no other


class MixedDataset(Dataset):
    """Map-style and stateless, as long as its parts together.

    Without weights, or with weights in proportion to the sizes, the parts stand one after the other. With
    others, `mixed[index, seed]` draws the part by its weight, then one of its rows, from (index, seed) alone;
    in an epoch a row may then come several times or not at all.
    """

    def __init__(self, datasets: Sequence[Dataset], weights: Sequence[float] | None = None) -> None:
        """
        Args:
          datasets: of one kind of samples, keyed by (index, seed).
          weights: how often each is drawn, in proportion; None = by size.
        Raises:
          UserError: not a weight for each, or weights that are not positive numbers.
        """
        self.datasets = list(datasets)
        sizes = [len(dataset) for dataset in self.datasets]
        self._ends = list(accumulate(sizes))
        self._shares: list[float] | None = None
        if weights is None:
            return
        if len(weights) != len(sizes):
            raise UserError(f"{len(weights)} weights for {len(sizes)} data sets; give one for each")
        if not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise UserError(f"weights {', '.join(map(str, weights))}: each must be a number above 0")
        shares = [weight / sum(weights) for weight in weights]
        if not np.allclose(shares, np.array(sizes) / sum(sizes), rtol=1e-9, atol=0):
            self._shares = list(accumulate(shares))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, key: tuple[int, int]) -> T2ISample | EditSample:
        index, seed = key
        if not 0 <= index < len(self):
            raise IndexError(index)
        which, row = self._locate(index, seed)
        return self.datasets[which][row, seed]

    def _locate(self, index: int, seed: int) -> tuple[int, int]:
        """Which dataset, and which of its rows."""
        if self._shares is None:
            return locate(self._ends, index)
        rng = np.random.default_rng([_MIX, index, seed])
        # The last share may round to just below 1.
        which = min(bisect_right(self._shares, rng.random()), len(self._shares) - 1)
        return which, int(rng.integers(len(self.datasets[which])))
