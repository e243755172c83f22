"""What a training shows and writes while it runs."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runtime.distributed import Distributed
from runtime.logging import MetricsLog, WandbRun, progress


class Means:
    """Means of some numbers over the steps since the last reading; waits for the device when read only.

    A number's mean is over the steps that have it and in which it is finite: a skipped one does not take the
    others with it. Where it is finite in none of them, it is not a number.
    """

    def __init__(self, ranks: Distributed, dtype: torch.dtype, *, parts: bool) -> None:
        """
        Args:
          dtype: of the sums over the ranks.
          parts: a step's number is the sum of what the ranks hand in; else it is their mean.
        """
        self.ranks, self.dtype, self.parts = ranks, dtype, parts
        self._steps: dict[str, list[Tensor]] | dict[str, list[float]] = {}

    def add(self, **values: Tensor | float) -> None:
        """Takes in one step: scalars on the device, or plain numbers; all ranks hand in the same names."""
        for name, value in values.items():
            number = value.detach().to(self.dtype) if isinstance(value, Tensor) else value
            self._steps.setdefault(name, []).append(number)

    def read(self) -> dict[str, float]:
        """The means by name, the same on all ranks, which must all call it; starts again."""
        numbers = torch.cat([self._on_device(values) for values in self._steps.values()])
        numbers = iter(self.ranks.all_reduce_sum(numbers).tolist())
        share = 1 if self.parts else self.ranks.world_size
        means = {}
        for name, values in self._steps.items():
            finite = [number for number in islice(numbers, len(values)) if math.isfinite(number)]
            means[name] = math.fsum(finite) / len(finite) / share if finite else math.nan
        self._steps = {}
        return means

    def _on_device(self, values: list[Tensor] | list[float]) -> Tensor:
        if isinstance(values[0], Tensor):
            return torch.stack(values)
        return torch.tensor(values, dtype=self.dtype, device=self.ranks.device)


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
