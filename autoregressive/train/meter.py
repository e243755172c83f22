"""The log lines of both stages."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from autoregressive.models.flops import peak_flops
from autoregressive.train.config import TrainConfig
from autoregressive.train.state import TrainState
from runtime.distributed import Distributed
from runtime.logging import get_logger
from runtime.training.meter import Means, TrainingMeter

log = get_logger(__name__)


class Meter(TrainingMeter):
    """Adds a console line; waits for the device once per log line only.

    "loss" is the mean over the steps since the last line; a step whose loss is not finite is not part of it.
    "useful_tflops" counts the operations that the batches need (`batch_flops`), per device; "mfu" is their
    share of the device's half-precision peak.
    """

    def __init__(self, state: TrainState, total_steps: int, config: TrainConfig, ranks: Distributed) -> None:
        super().__init__(
            config.results_dir,
            state.step,
            total_steps,
            ranks,
            desc="training",
            wandb_project=config.wandb_project,
            settings=asdict(config),
        )
        self.state, self.config = state, config
        self.means = Means(ranks, torch.float64, parts=True)
        self.peak = None if config.mixed_precision == "none" else peak_flops(ranks.device)
        if config.peak_tflops is not None:
            self.peak = config.peak_tflops * 1e12

    def update(self, loss: Tensor, flops: float) -> None:
        """Takes in one step: this rank's part of its loss and of its useful operations."""
        self.means.add(loss=loss, flops=flops)
        self.count_step()

    def line(self, norm: Tensor) -> None:
        """Logs the steps since the last line, with the gradient norm of the latest."""
        step, numbers = self.state.step, self._numbers(norm)
        self.write(step, **numbers)
        if self.ranks.is_main:
            minutes, seconds = divmod(round(numbers["seconds_left"]), 60)
            log.info(
                f"step {step}/{self.total_steps}  loss {numbers['loss']:.4f}  "
                f"gradient {numbers['grad_norm']:.3f}  {numbers['samples_per_second']:.1f} samples/s  "
                f"{numbers['useful_tflops']:.3g} TFLOP/s"
                + (f" ({numbers['mfu']:.0%} of the peak)" if "mfu" in numbers else "")
                + f"  ends in {minutes}:{seconds:02d}"
            )

    def _numbers(self, norm: Tensor) -> dict[str, float]:
        means = self.means.read()
        speed = self.read_speed(self.state.step, self.config.global_batch_size)
        flops = means["flops"] / speed.seconds / self.ranks.world_size
        return {
            "loss": means["loss"],
            "grad_norm": norm.item(),
            "lr": self.state.optimizers.param_groups[0]["lr"],
            "samples_per_second": speed.samples_per_second,
            "seconds_left": speed.seconds_left,
            "useful_tflops": flops / 1e12,
            **({} if self.peak is None else {"mfu": flops / self.peak}),
            "epoch": self.state.sampler.epoch,
        }

    def scores(self, scores: dict[str, float]) -> None:
        """Takes in the results of a validation."""
        self.write(self.state.step, **scores)
        if self.ranks.is_main:
            log.info(
                "step %d  %s",
                self.state.step,
                "  ".join(f"{name} {value:.4f}" for name, value in scores.items()),
            )
