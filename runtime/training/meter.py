"""What a training shows and writes while it runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runtime.distributed import Distributed
from runtime.logging import MetricsLog, WandbRun, progress


class Means:
    """Means of some numbers over the steps since the last reading; waits for the device when read only."""

    def __init__(self, ranks: Distributed, dtype: torch.dtype, *, parts: bool) -> None:
        """
        Args:
          dtype: they are summed in.
          parts: a step's number is the sum of what the ranks hand in; else it is their mean.
        """
        self.ranks, self.dtype, self.parts = ranks, dtype, parts
        self._restart()

    def _restart(self) -> None:
        self.sums: dict[str, Tensor | float] = {}
        self.count = 0

    def add(self, **values: Tensor | float) -> None:
        """Takes in one step: scalars on the device, or plain numbers."""
        for name, value in values.items():
            number = value.detach().to(self.dtype) if isinstance(value, Tensor) else value
            self.sums[name] = self.sums.get(name, 0) + number
        self.count += 1

    def read(self) -> dict[str, float]:
        """The means by name, the same on all ranks, which must all call it; starts again."""
        sums = [torch.as_tensor(s, dtype=self.dtype, device=self.ranks.device) for s in self.sums.values()]
        stacked = torch.stack(sums) / (self.count * (1 if self.parts else self.ranks.world_size))
        means = dict(zip(self.sums, self.ranks.all_reduce_sum(stacked).tolist(), strict=True))
        self._restart()
        return means


class Speed(NamedTuple):
    """Of the steps since the last log line."""

    seconds: float
    """Of a step."""
    samples_per_second: float
    seconds_left: float


class TrainingMeter:
    """Progress bar, speed, metrics.jsonl and wandb of a run; the main rank alone shows and writes."""

    def __init__(
        self,
        results_dir: str,
        step: int,
        total_steps: int,
        ranks: Distributed,
        *,
        desc: str,
        wandb_project: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        """
        Args:
          step: where the run begins; later lines in its metrics.jsonl are dropped.
          desc: the progress bar's word.
          wandb_project: None logs nothing there.
          settings: shown beside the run at wandb.
        """
        self.total_steps, self.ranks = total_steps, ranks
        self._file = MetricsLog(results_dir, ranks.is_main, step)
        project = wandb_project if ranks.is_main else None
        self._wandb = WandbRun(project, results_dir, settings or {}, step)
        self.bar = progress(
            total=total_steps, initial=step, desc=desc, unit="step", disable=not ranks.is_main
        )
        self._restart()

    def _restart(self) -> None:
        self._steps, self._start = 0, time.perf_counter()

    def count_step(self) -> None:
        """Takes in that a step is done."""
        self._steps += 1
        self.bar.update()

    def read_speed(self, step: int, batch_size: int) -> Speed:
        """How fast the steps since the last call were; right after a wait for the device."""
        seconds = (time.perf_counter() - self._start) / self._steps
        self._restart()
        return Speed(seconds, batch_size / seconds, seconds * (self.total_steps - step))

    def write(self, step: int, **numbers: float) -> None:
        """Writes a line of metrics.jsonl, and wandb's."""
        self._file.write(step, **numbers)
        self._wandb.log(step, **numbers)

    def write_picture(self, step: int, path: Path) -> None:
        """Hands a preview to wandb."""
        self._wandb.picture(step, path)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps the time of a preview or a validation out of the training speed."""
        paused_at = time.perf_counter()
        yield
        self._start += time.perf_counter() - paused_at

    def __enter__(self) -> TrainingMeter:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()
        self._wandb.finish()
