"""Scores an editor on held-out shapes, region by region and order by order: before rewards and after.

    python scripts/rewards/score_edits.py --vq-ckpt vq.pt --gpt-ckpt editing.pt --t5-path t5 --cfg-scale 1 \\
        --temperature 0.1 --mask-rule exact --magicbrush-path data/shapes/test --output scores.json

Models are drawn from with the same seeds of edits. With --best-of n the verifier itself takes the best of n
samples: the most that choosing among samples can reach.
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.rewards.config import ScoreEdits


def main() -> None:
    config = parse(ScoreEdits)
    from scripts.rewards.score import score_edits  # PyTorch is imported once the flags are right

    score_edits(config)


if __name__ == "__main__":
    run_command(main)
