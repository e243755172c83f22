"""Trains the image tokenizer, on one process or under torchrun.

python tokenizer/tokenizer_image/vq_train.py --data-path images/ --vq-model VQ-8-small --image-size 72 ...
torchrun --nproc_per_node 8 tokenizer/tokenizer_image/vq_train.py --data-path images/ --vq-model VQ-16 ...
--dry-run trains nothing and says what it would take.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.config import parse
from runtime.errors import run_command
from tokenizer.tokenizer_image.vq_config import VQTrainConfig


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(VQTrainConfig, argv)
    config.check()
    # PyTorch is imported once the flags are right.
    from runtime.distributed import distributed
    from tokenizer.tokenizer_image.vq_loop import train

    with distributed(config.device) as ranks:
        train(config, ranks)


if __name__ == "__main__":
    run_command(main)
