"""Measures how well a tokenizer reconstructs images it was not trained on.

    python tokenizer/tokenizer_image/reconstruction_eval.py --vq-ckpt vq.pt --data-path images/ --fid

Writes `reconstruction.json` and `reconstruction.png` (original | reconstruction pairs); with `--save-images`
also `originals/` and `reconstructions/`, from which evaluations/tokenizer/evaluation.py makes a page of the
worst and best pairs. Under torchrun the ranks share the images.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.config import parse
from runtime.errors import run_command
from tokenizer.tokenizer_image.reconstruction_config import ReconstructionConfig


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(ReconstructionConfig, argv)
    from tokenizer.tokenizer_image.reconstruction import run  # PyTorch is imported once the flags are right

    run(config)


if __name__ == "__main__":
    run_command(main)
