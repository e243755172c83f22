"""Packs edit pairs for training: codes, mask bits and text features in place of images, masks and captions.

    torchrun --nproc_per_node 8 autoregressive/train/extract_codes_editing.py \\
        --data-path data/ultraedit.jsonl --packed-path data/ultraedit_packed \\
        --vq-ckpt pretrained_models/vq_ds16_t2i.pt --image-size 256 \\
        --t5-path pretrained_models/t5-ckpt --center-crop

Then `train_editing.py --packed-data data/ultraedit_packed`. The flags are those of the training. Crops, flips
and `--mask-jitter` are drawn here: `--views 4 --random-flip` stores four of each pair, and training takes one
of them each time. Masks are stored as cells by `--mask-rule`, so training cannot widen them
(`--mask-dilation`).

A run that was stopped goes on when it is started again, on any number of ranks, and its shards are the same
byte by byte. On a finished folder the command checks every shard; what is damaged is made again. Pairs that
cannot be used are named in `<packed-path>/unusable.txt` and by the training that meets them; run again once
they are repaired.
"""

from __future__ import annotations

import logging

from autoregressive.train.packing.config import PackEditsConfig
from runtime.config import parse
from runtime.errors import run_command
from runtime.logging import get_logger


def main() -> None:
    config = parse(PackEditsConfig)
    # PyTorch is imported once the flags are right.
    from autoregressive.train.packing.edits import extract
    from language.t5 import TRUNCATION_LOG
    from runtime.distributed import distributed

    get_logger(TRUNCATION_LOG).setLevel(logging.ERROR)
    with distributed(config.device) as ranks:
        extract(config, ranks)


if __name__ == "__main__":
    run_command(main)
