"""Edits a whole test set in MagicBrush's format, single-turn and multi-turn, for the evaluator.

python autoregressive/sample/sample_magicbrush.py --vq-ckpt vq.pt --gpt-ckpt nep.pt --t5-path t5 \
    --magicbrush-path data/shapes/test --output-dir results/edits

Writes `images/<id>/<id>_1.png`, `<id>_inde_k.png` (turn k alone) and `<id>_iter_k.png` (after the model's own
turn k-1), the region each edit was free to change under `regions/`, and `samples.json`.
"""

from __future__ import annotations

from autoregressive.sample.flags import SampleMagicBrush
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(SampleMagicBrush)
    # PyTorch is imported once the flags are right.
    from autoregressive.sample.edit_test_sets import sample_magicbrush
    from runtime.distributed import distributed

    with distributed(config.device) as ranks:
        sample_magicbrush(config, ranks)


if __name__ == "__main__":
    run_command(main)
