"""Which schedule the flags of the learning rate choose."""

from __future__ import annotations

from runtime.errors import UserError


def schedule_of(scheduler: str, annealing: str) -> str:
    """`--lr-scheduler`, or the one-cycle schedule where `--lr-scheduler-annealing` names its shape."""
    return scheduler if annealing == "none" else "onecycle"


def require_schedule(scheduler: str, annealing: str, warmup_steps: int) -> None:
    """
    Raises:
      UserError: flags of two schedules, of which one would do nothing.
    """
    schedule = schedule_of(scheduler, annealing)
    if scheduler == "cosine" and schedule != scheduler:
        raise UserError(
            f"--lr-scheduler-annealing {annealing} is the shape of the one-cycle schedule: leave it out, or "
            "--lr-scheduler cosine"
        )
    if warmup_steps and schedule == "onecycle":
        raise UserError(
            f"--warmup-steps {warmup_steps} is for constant and cosine: the one-cycle schedule rises within "
            "--pct-start of the steps"
        )
