"""Trains a model by rewards for what it draws (GRPO). `python … --help` lists the flags."""

from __future__ import annotations

from autoregressive.train.rewards.config import RewardsConfig
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(RewardsConfig)
    # PyTorch is imported once the flags are right.
    from autoregressive.train.rewards.stage import train_rewards
    from runtime.distributed import distributed

    with distributed(config.device) as ranks:
        train_rewards(config, ranks)


if __name__ == "__main__":
    run_command(main)
