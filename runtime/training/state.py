"""What every training changes, and which part of a checkpoint holds it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from runtime.optim import Optimizers
from runtime.training.ema import AveragedWeights


@dataclass(eq=False)
class RunState:
    """The weights of a run, their average, and what steps them."""

    model: nn.Module
    optimizers: Optimizers
    scaler: torch.amp.GradScaler
    ema: AveragedWeights | None
    step: int = field(default=0, kw_only=True)
    """Finished ones."""
    num_skipped: int = field(default=0, kw_only=True)
    """Steps without an update because a gradient was not finite."""

    def update_average(self) -> None:
        """Moves the averaged weights, if the run keeps them, towards the current ones."""
        if self.ema is not None:
            self.ema.update_parameters(self.model)

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Puts the averaged weights, if the run keeps them, into the model for a while."""
        return nullcontext() if self.ema is None else self.ema.put_into(self.model)

    def content(self, args: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint's parts under the published keys.

        Args:
          args: the flags, and what the model is rebuilt from.
        """
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizers.state_dict(),
            "steps": self.step,
            "args": args,
            "scaler": self.scaler.state_dict(),
            "num_skipped": self.num_skipped,
        }
        if self.ema is not None:
            content["ema"] = self.ema.module.state_dict()
        return content
