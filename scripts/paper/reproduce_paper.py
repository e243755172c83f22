"""Reproduces a table of the paper: our figures beside the paper's, with a verdict for each.

    python scripts/paper/reproduce_paper.py 5 --dry-run      # what it takes, what cannot be had; does nothing
    python scripts/paper/reproduce_paper.py 5                # zero-shot editing, by published weights alone
    python scripts/paper/reproduce_paper.py 1 --gpt-ckpt NEP_256.pt --num-ranks 8

Downloads what is on the hub into its cache (files in --pretrained are taken as they are), prepares, samples
and evaluates by the programs that one would run by hand. Steps that are done are skipped, tables share them.
Writes table<N>.json and table<N>.txt into --work-dir.
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.paper.config import ReproducePaper


def main() -> None:
    config = parse(ReproducePaper)
    from scripts.paper.run import run  # PyTorch is imported once the flags are right

    run(config)


if __name__ == "__main__":
    run_command(main)
