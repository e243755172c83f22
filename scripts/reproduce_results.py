"""Trains and scores every row of the results on shapes, for several seeds; writes tables and figures.

    python scripts/reproduce_results.py      # five seeds, hours on two CPU cores; can be stopped

The plan is docs/claims.md. Data and tokenizer are the same for all seeds; stage 1 and five variants of stage
2 are trained for each, and on three variants of the data what their rows need.
Steps that are done are skipped, an interrupted training goes on. Writes RESULTS.md, results.json, figures/.
Seeds measured elsewhere come in by `--add their/results.json`.
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.reproduce.config import ReproduceResults


def main() -> None:
    config = parse(ReproduceResults)
    from scripts.reproduce.results import run  # slow libraries are imported once the flags are right

    run(config)


if __name__ == "__main__":
    run_command(main)
