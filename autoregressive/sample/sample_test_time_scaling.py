"""Improves drawn images and edits at test time, led by a reward.

python autoregressive/sample/sample_test_time_scaling.py --vq-ckpt vq.pt --gpt-ckpt t2i.pt --t5-path t5 \
    --prompts "a red circle at the top left, gray background" --reward shapes --output-dir scaled

Writes 0000.png, … , strips/0000.png, … (start and accepted rounds) and trace.json into --output-dir.
"""

from __future__ import annotations

from autoregressive.sample.flags import SampleScaled
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(SampleScaled)
    # PyTorch is imported once the flags are right.
    from autoregressive.sample.scaling_run import improve_all

    improve_all(config)


if __name__ == "__main__":
    run_command(main)
