"""Writes the codes of images to disk, so that training need not run the tokenizer.

The input is a folder of jsonl files with `image_path` (LlamaGen's layout), or one such file. The codes of
line i (from 0) of `<stem>.jsonl` go to `<code-path>/<stem>/<i>.npy`: int64 (1, N), raster order, of the
centre-cropped image. Train from them with `--dataset t2i_code --data-path CODE_PATH --t5-feat-path FEATURES`,
where the features are what language/extract_t5_feature.py writes for the same jsonl files.

    torchrun --nproc_per_node 8 autoregressive/train/extract_codes_t2i.py --data-path lists/ \\
        --code-path codes/ --vq-ckpt pretrained_models/vq_ds16_t2i.pt --image-size 256

Every run can be stopped and started again: codes that are there are kept, each file is whole or absent, and a
folder made with another tokenizer, image size or other images is refused instead of mixed. Images that cannot
be read are named in `<code-path>/unusable.txt`; run again once they are repaired.

With --packed-path instead of --code-path, codes and text features are packed into shards that training maps
into memory. The data is read as training reads it, and the flags are those of the training:

    torchrun --nproc_per_node 8 autoregressive/train/extract_codes_t2i.py --data-path data/cc12m.jsonl \\
        --packed-path data/cc12m_packed --vq-ckpt pretrained_models/vq_ds16_t2i.pt --image-size 256
    python autoregressive/train/train_t2i.py --packed-data data/cc12m_packed …
"""

from __future__ import annotations

import logging

from autoregressive.train.packing.config import ExtractCodesConfig
from runtime.config import parse
from runtime.errors import run_command
from runtime.logging import get_logger


def main() -> None:
    config = parse(ExtractCodesConfig)
    # PyTorch is imported once the flags are right.
    from autoregressive.train.packing.codes import extract
    from language.t5 import TRUNCATION_LOG
    from runtime.distributed import distributed

    get_logger(TRUNCATION_LOG).setLevel(logging.ERROR)
    with distributed(config.device) as ranks:
        extract(config, ranks)


if __name__ == "__main__":
    run_command(main)
