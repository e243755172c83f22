"""Prints what a study of rewards has found: edits done over seeds, beside its baselines.

python scripts/rewards/compare_study.py --results-dir results/study --seeds 0 1 2
"""

from __future__ import annotations

from pathlib import Path

from runtime.config import parse
from runtime.errors import run_command
from scripts.rewards.config import CompareStudy


def main() -> None:
    config = parse(CompareStudy)
    from scripts.rewards.study import read_study, tables  # PyTorch is imported once the flags are right

    print(tables(read_study(Path(config.results_dir), config.seeds)))


if __name__ == "__main__":
    run_command(main)
