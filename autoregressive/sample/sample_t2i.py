"""Draws images from texts.

python autoregressive/sample/sample_t2i.py --vq-ckpt vq.pt --gpt-ckpt t2i.pt --t5-path t5 \
    --prompts "a red circle at the top left, white background" --output-dir samples
"""

from __future__ import annotations

from autoregressive.sample.flags import SampleT2I
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(SampleT2I)
    # PyTorch is imported once the flags are right.
    from autoregressive.sample.drawing import draw_prompts

    draw_prompts(config)


if __name__ == "__main__":
    run_command(main)
