"""Checkpoints of a training by rewards: a training's, and which model it is held near to."""

from __future__ import annotations

from autoregressive.train.rewards.config import RewardsConfig
from autoregressive.train.state import TrainState, checkpoint_content
from runtime.checkpoint import load_checkpoint
from runtime.distributed import Distributed
from runtime.errors import UserError

START = "start"


def save(state: TrainState, start: str, config: RewardsConfig, ranks: Distributed) -> None:
    """Writes `checkpoints/<step>.pt` on the main rank; samplers and the other trainings read it too.

    Args:
      start: fingerprint of the reference model.
    """
    state.checkpoints.save(state.step, checkpoint_content(state, config, ranks) | {START: start})
    ranks.barrier()


def saved_start(path: str) -> str:
    """The fingerprint of the model that the checkpoint's run is held near to.

    Raises:
      UserError: it is no checkpoint of a training by rewards.
    """
    saved = load_checkpoint(path).get(START)
    if saved is None:
        raise UserError(
            f"{path} is no checkpoint of a training by rewards: to start from its weights, give it as "
            "--init-gpt-ckpt"
        )
    return saved


def require_same_start(path: str, saved: str, start: str, init_gpt_ckpt: str) -> None:
    """Where adapter and seed are known to be those of the checkpoint: they make the start, too.

    Args:
      saved: the `saved_start` of `path`.
    Raises:
      UserError: the checkpoint's run was held near to another model.
    """
    if saved != start:
        raise UserError(
            f"{path} comes from a run that started from other weights than {init_gpt_ckpt} holds, and is "
            "held near to them: give that run's --init-gpt-ckpt"
        )
