"""Rehearses the three published training commands at full size, with random weights.

Makes weights in the published formats and tiny data sets in the published layouts, runs the commands as the
paper's README writes them for a few steps each, and checks what they leave behind. The number of ranks, the
batch sizes, the folders of results and the number of steps differ from there; the flags of `ADDED` only save
memory and waiting. A checkpoint is deleted once the next command has started from it.

    python scripts/rehearse_published.py                                  # R-GPT-XL: about an hour, 24 GB
    python scripts/rehearse_published.py --gpt-model R-GPT-B --ranks 2    # at half the size: minutes
    python scripts/rehearse_published.py --low-memory adamw8bit lora      # stage 2 as on a GPU of 24 GB

A run that was stopped goes on after the last command whose checkpoint is still there.
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.rehearse.config import Rehearsal


def main() -> None:
    config = parse(Rehearsal)
    from scripts.rehearse.run import run  # PyTorch is imported once the flags are right

    run(config)


if __name__ == "__main__":
    run_command(main)
