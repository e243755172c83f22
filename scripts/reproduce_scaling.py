"""Measures test-time scaling on held-out shapes: a search in rounds against best-of-n at equal tokens.

    python scripts/reproduce_scaling.py --vq-ckpt vq.pt --gpt-ckpt t2i.pt --t5-path t5 --cfg-scale 1 \\
        --magicbrush-path data/shapes/test --output-dir scaling

Whatever reward leads, the shapes verifier judges: an image is right if it lets the described scene pass.
Writes for each task and reward `<task>_<reward>.json`: of both methods, after each round (or further image),
the mean reward, the share of right images and the tokens drawn, in images' worth. What is there already, made
with the same settings, is kept.
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.reproduce.scaling_config import ReproduceScaling


def main() -> None:
    config = parse(ReproduceScaling)
    from scripts.reproduce.scaling import run  # PyTorch is imported once the flags are right

    run(config)


if __name__ == "__main__":
    run_command(main)
