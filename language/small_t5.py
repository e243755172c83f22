"""Makes the small text encoder of the embedded data set; `language.small_encoder` explains it.

    python language/small_t5.py --texts data/shapes/train/t2i.jsonl data/shapes/train/editing.jsonl \\
        --output-dir data/shapes/t5
"""

from __future__ import annotations

from language.flags import SmallT5Config
from runtime.config import parse
from runtime.errors import run_command
from runtime.logging import get_logger


def main() -> None:
    config = parse(SmallT5Config)
    # PyTorch and transformers are imported once the flags are right.
    from language.small_encoder import make_small_t5, read_captions

    captions = read_captions(config.texts)
    make_small_t5(captions, config.output_dir, config.width, config.seed)
    get_logger("small_t5").info("%d captions, width %d: %s", len(captions), config.width, config.output_dir)


if __name__ == "__main__":
    run_command(main)
