"""The paper's tables with results of yours among them: one sortable page, and LaTeX.

    python evaluations/report/leaderboard.py --output leaderboard.html --latex tables.tex \\
        --scores "ours=results/magicbrush/scores/evaluation_metrics.json" "5:ours, zero-shot=results/zero/..."

A result is [TABLE:]NAME=FILE: the evaluation_metrics.json of the MagicBrush or Emu Edit evaluator, or the
score.json of the COCO one. Without a number it goes into the first table of its test set: 1, 2, 7. The page
needs no network; a click on a column's head sorts by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.config import check_ranges, option, parse
from runtime.errors import run_command


@dataclass(frozen=True)
class LeaderboardConfig:
    """Writes the paper's tables, with results of yours added, as a page and as LaTeX."""

    scores: list[str] | None = option(None, help="results to add, each [TABLE:]NAME=FILE")
    output: str = option("leaderboard.html", help="the page")
    latex: str | None = option(None, help="also write the tables as LaTeX (booktabs) into this file")

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))


def main() -> None:
    config = parse(LeaderboardConfig)
    from evaluations.report.leaderboard_page import write_leaderboard  # jinja2, once the flags are right

    write_leaderboard(config.scores or [], config.output, config.latex)


if __name__ == "__main__":
    run_command(main)
