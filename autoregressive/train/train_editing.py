"""Stage 2: fine-tunes a text-to-image transformer for editing. `python … --help` lists the flags."""

from __future__ import annotations

from autoregressive.train.config import EditingConfig
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(EditingConfig)
    # PyTorch is imported once the flags are right.
    from autoregressive.train.stages import train_editing
    from runtime.distributed import distributed

    with distributed(config.device) as ranks:
        train_editing(config, ranks)


if __name__ == "__main__":
    run_command(main)
