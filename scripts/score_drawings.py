"""Draws held-out captions of the shapes set, or of the emoji set, and lets the verifier judge the images.

    python scripts/score_drawings.py --vq-ckpt vq.pt --gpt-ckpt t2i.pt --t5-path t5 --cfg-scale 1 \\
        --captions data/shapes/test/t2i.jsonl --output-dir scores/drawings

Writes `drawings.json` (shares of right colours and shapes over all objects, and of images in which everything
is right), `drawings.png` (the first images) and `images/`. Of emoji (`--emoji-scenes`): shares of images
whose nearest sprite is the one named, by group: seen in training, seen in other tones only, never seen.
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.checks.drawings_config import ScoreDrawings


def main() -> None:
    config = parse(ScoreDrawings)
    from scripts.checks.drawings import draw_and_judge  # PyTorch is imported once the flags are right

    draw_and_judge(config)


if __name__ == "__main__":
    run_command(main)
