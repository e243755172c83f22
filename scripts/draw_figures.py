"""Draws the figures of docs/idea.md with the shipped models: python scripts/draw_figures.py"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.figures.config import DrawFigures


def main() -> None:
    config = parse(DrawFigures)
    from scripts.figures.idea import draw_all  # PyTorch is imported once the flags are right

    draw_all(config)


if __name__ == "__main__":
    run_command(main)
