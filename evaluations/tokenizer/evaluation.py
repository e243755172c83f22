"""Scores a folder of reconstructions against the folder of their originals.

    python evaluations/tokenizer/evaluation.py --generated_path out/reconstructions --gt_path out/originals \\
        --save_path results/tokenizer_scores --lpips --fid

Files are paired by their path below the two folders, whatever their suffix; such folders come from
`tokenizer/tokenizer_image/reconstruction_eval.py --save-images`. Writes `evaluation_metrics.json`,
`evaluation_items.json` and `evaluation_items.html` (the worst and best pairs, with pictures). Under torchrun
the ranks share the pairs.
"""

from __future__ import annotations

from evaluations.tokenizer.flags import TokenizerEvalConfig
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(TokenizerEvalConfig)
    from evaluations.tokenizer.scores import run  # PyTorch is imported once the flags are right

    run(config)


if __name__ == "__main__":
    run_command(main)
