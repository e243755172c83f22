"""Stage 1: text-to-image training, any-order for R-GPT models. `python … --help` lists the flags."""

from __future__ import annotations

from autoregressive.train.config import T2IConfig
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(T2IConfig)
    # PyTorch is imported once the flags are right.
    from autoregressive.train.stages import train_t2i
    from runtime.distributed import distributed

    with distributed(config.device) as ranks:
        train_t2i(config, ranks)


if __name__ == "__main__":
    run_command(main)
