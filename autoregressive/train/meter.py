"""What a training shows and writes while it runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from autoregressive.models.flops import peak_flops
from autoregressive.train.config import TrainConfig
from autoregressive.train.state import TrainState
from runtime.distributed import Distributed
from runtime.logging import MetricsLog, WandbRun, get_logger, progress

log = get_logger(__name__)


class Meter:
    """Progress bar, console line, metrics.jsonl and wandb; waits for the device once per log line only.

    "useful_tflops" counts the operations that the batches need (`batch_flops`), per device; "mfu" is their
    share of the device's half-precision peak.
    """

    def __init__(self, state: TrainState, total_steps: int, config: TrainConfig, ranks: Distributed) -> None:
        self.state, self.total_steps, self.config, self.ranks = state, total_steps, config, ranks
        self.file = MetricsLog(config.results_dir, ranks.is_main, state.step)
        project = config.wandb_project if ranks.is_main else None
        self.wandb = WandbRun(project, config.results_dir, asdict(config), state.step)
        self.bar = progress(
            total=total_steps, initial=state.step, desc="training", unit="step", disable=not ranks.is_main
        )
        self.peak = None if config.mixed_precision == "none" else peak_flops(ranks.device)
        if config.peak_tflops is not None:
            self.peak = config.peak_tflops * 1e12
        self._restart()

    def _restart(self) -> None:
        self.losses: list[Tensor] = []
        self.flops = 0.0
        self.start = time.perf_counter()

    def update(self, loss: Tensor, flops: float) -> None:
        """Takes in one step: this rank's part of its loss and of its useful operations."""
        self.losses.append(loss)
        self.flops += flops
        self.bar.update()

    def line(self, norm: Tensor) -> None:
        """Logs the steps since the last line, with the gradient norm of the latest."""
        step, numbers = self.state.step, self._numbers(norm)
        self.file.write(step, **numbers)
        self.wandb.log(step, **numbers)
        if self.ranks.is_main:
            minutes, seconds = divmod(round(numbers["seconds_left"]), 60)
            log.info(
                f"step {step}/{self.total_steps}  loss {numbers['loss']:.4f}  "
                f"gradient {numbers['grad_norm']:.3f}  {numbers['samples_per_second']:.1f} samples/s  "
                f"{numbers['useful_tflops']:.3g} TFLOP/s"
                + (f" ({numbers['mfu']:.0%} of the peak)" if "mfu" in numbers else "")
                + f"  ends in {minutes}:{seconds:02d}"
            )
        self._restart()

    def _numbers(self, norm: Tensor) -> dict[str, float]:
        steps = len(self.losses)
        loss = torch.stack(self.losses).double().mean()
        sums = self.ranks.all_reduce_sum(torch.stack([loss, loss.new_tensor(self.flops)])).tolist()
        seconds = time.perf_counter() - self.start
        flops = sums[1] / seconds / self.ranks.world_size
        return {
            "loss": sums[0],
            "grad_norm": norm.item(),
            "lr": self.state.optimizers.param_groups[0]["lr"],
            "samples_per_second": steps * self.config.global_batch_size / seconds,
            "seconds_left": (self.total_steps - self.state.step) * seconds / steps,
            "useful_tflops": flops / 1e12,
            **({} if self.peak is None else {"mfu": flops / self.peak}),
            "epoch": self.state.sampler.epoch,
        }

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps the time of a preview or a validation out of the training speed."""
        paused_at = time.perf_counter()
        yield
        self.start += time.perf_counter() - paused_at

    def scores(self, scores: dict[str, float]) -> None:
        """Takes in the results of a validation."""
        self.file.write(self.state.step, **scores)
        self.wandb.log(self.state.step, **scores)
        if self.ranks.is_main:
            log.info(
                "step %d  %s",
                self.state.step,
                "  ".join(f"{name} {value:.4f}" for name, value in scores.items()),
            )

    def picture(self, path: Path) -> None:
        self.wandb.picture(self.state.step, path)

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()
        self.wandb.finish()
