"""Which flags of the learning rate go together."""

from __future__ import annotations

from typing import Any

from runtime.errors import UserError


def require_schedule(config: Any) -> None:
    """
    Raises:
      UserError: flags of two schedules, of which one would do nothing.
    """
    if config.lr_scheduler == "cosine" and config.schedule != "cosine":
        raise UserError(
            f"--lr-scheduler-annealing {config.lr_scheduler_annealing} is the shape of the one-cycle "
            "schedule: leave it out, or --lr-scheduler cosine"
        )
    if config.warmup_steps and config.schedule == "onecycle":
        raise UserError(
            f"--warmup-steps {config.warmup_steps} is for constant and cosine: the one-cycle schedule rises "
            "within --pct-start of the steps"
        )
