"""One picture of one or several trainings: losses, throughput, whatever was logged, and the last previews.

python scripts/plot_run.py results/a                     # writes results/a/run.png
python scripts/plot_run.py results/a results/b --output compared.png
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.figures.config import PlotRun


def main() -> None:
    config = parse(PlotRun)
    from scripts.figures.runs import plot  # matplotlib is imported once the flags are right

    plot(config)


if __name__ == "__main__":
    run_command(main)
