"""What one edit of a test set costs, as table 4 of the paper: seconds and memory, one edit at a time.

    python scripts/paper/edit_cost.py --vq-ckpt VQ.pt --gpt-ckpt NEP.pt --t5-path T5 \\
        --magicbrush-path data/MagicBrush_test/test --output-dir results/cost

Writes cost.json: the median of the seconds from picture and words to picture, and the most memory that was
held, weights and text encoder included: of the GPU, or without one of the process.
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.paper.cost_config import EditCost


def main() -> None:
    config = parse(EditCost)
    from scripts.paper.cost import measure_cost  # PyTorch is imported once the flags are right

    measure_cost(config)


if __name__ == "__main__":
    run_command(main)
