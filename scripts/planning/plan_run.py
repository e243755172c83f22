"""Says what a training would take, by arithmetic alone: before there is data, or a machine.

    python scripts/planning/plan_run.py --stage editing --gpt-model R-GPT-XL --num-samples 16000000 \\
        --num-gpus 64 --gpu H100 --utilisation 0.35

For a training whose data and machine are there, its own --dry-run measures instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.config import parse
from runtime.errors import run_command
from scripts.planning.config import PlanRun


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(PlanRun, argv)
    # PyTorch is imported once the flags are right.
    from scripts.planning.plan import show

    show(config)


if __name__ == "__main__":
    run_command(main)
