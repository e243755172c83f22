"""Scores a folder of MagicBrush-style results, single-turn and multi-turn.

    python evaluations/editing/image_eval.py --generated_path results/images --gt_path data/test/images \\
        --caption_path data/test/local_descriptions.json --save_path results/scores --metric l1,l2,clip-i,dino

Reads images only, never the model that made them. Several folders after --generated_path are seeds of one
model. Under torchrun the ranks share the pairs, with the same result. Writes `evaluation_metrics.json`, every
pair (`evaluation_items.json`), the worst and best with pictures (`.html`), and `evaluation_table.txt`.
"""

from __future__ import annotations

from evaluations.editing.flags import ImageEvalConfig
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(ImageEvalConfig)
    from evaluations.editing.magicbrush_scores import run  # PyTorch is imported once the flags are right

    run(config)


if __name__ == "__main__":
    run_command(main)
