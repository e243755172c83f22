"""What every training changes, and which part of a checkpoint holds it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from runtime.optim import Optimizers
from runtime.sharding.folder import Like
from runtime.sharding.names import Place
from runtime.sharding.tensors import is_sharded
from runtime.training.ema import AveragedWeights
from runtime.training.parallel import gathered


@dataclass(eq=False)
class RunState:
    """The weights of a run, their average, and what steps them."""

    model: nn.Module
    optimizers: Optimizers
    scaler: torch.amp.GradScaler
    ema: AveragedWeights | None
    shown: nn.Module | None = field(default=None, kw_only=True)
    """What previews and validation draw with where the model is sharded: a `hollow_copy`."""
    step: int = field(default=0, kw_only=True)
    """Finished ones."""
    num_skipped: int = field(default=0, kw_only=True)
    """Steps without an update because a gradient was not finite."""

    def update_average(self) -> None:
        """Moves the averaged weights, if the run keeps them, towards the current ones."""
        if self.ema is not None:
            self.ema.update_parameters(self.model)

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Puts the averaged weights, if the run keeps them, into what is drawn from, for a while.

        That is the model, or, if it is sharded, `shown`, and then all ranks must enter this.
        """
        if self.shown is not None:
            return gathered(self.model if self.ema is None else self.ema.module, self.shown)
        return nullcontext() if self.ema is None else self.ema.put_into(self.model)

    def pattern(self) -> Like:
        """Which tensors of a checkpoint are sharded in this run, and how."""
        own: dict[Place, Tensor] = {("optimizer", *place): p for place, p in self.optimizers.places().items()}
        own |= {("model", name): weight for name, weight in self.model.named_parameters()}
        if self.ema is not None:
            own |= {("ema", name): weight for name, weight in self.ema.module.named_parameters()}

        def like(place: Place, value: Tensor) -> Tensor | None:
            found = own.get(place, own.get(place[:-1]))  # an optimizer's averages are sharded as their weight
            fits = found is not None and is_sharded(found) and found.shape == value.shape
            return found.detach() if fits else None

        return like

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
