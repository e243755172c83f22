"""Writes the text features of captions to disk, so that training need not run the text encoder.

Two kinds of input:

- a folder of jsonl files (LlamaGen's layout): line i (from 0) of `<stem>.jsonl` goes to
  `<output>/<stem>/<i>.npy`;
- one jsonl file: the same, and beside the input a list `<stem>_t5.jsonl` is written, the input's lines with
  the path of the features added. Train with that list.

      python language/extract_t5_feature.py --data-path data/my_images.jsonl
      torchrun --nproc_per_node 8 language/extract_t5_feature.py --data-path data/ultraedit.jsonl \\
          --caption-key output_caption

The key that is added is the one the readers look for: `embedding_path` for captions of images, for edit pairs
`target_caption_t5_path`, or `edit_prompt_t5_path` with --caption-key edit_prompt. To have both for the same
pairs, run a second time on the list that the first run wrote.

Every run can be stopped and started again: files that are there are kept, each file is whole or absent, and a
folder made with other settings or other captions is refused instead of mixed.
"""

from __future__ import annotations

import logging

from language.flags import ExtractConfig
from runtime.config import parse
from runtime.errors import run_command
from runtime.logging import get_logger


def main() -> None:
    config = parse(ExtractConfig)
    # PyTorch and transformers are imported once the flags are right.
    from language.feature_extraction import extract
    from language.t5 import TRUNCATION_LOG
    from runtime.distributed import distributed

    get_logger(TRUNCATION_LOG).setLevel(logging.ERROR)
    with distributed(config.device) as ranks:
        extract(config, ranks)


if __name__ == "__main__":
    run_command(main)
