"""Draws the picture of docs/architecture.md from the imports: python scripts/draw_architecture.py"""

from __future__ import annotations

from pathlib import Path

from runtime.config import parse
from runtime.errors import run_command
from scripts.figures.config import DrawArchitecture


def main() -> None:
    config = parse(DrawArchitecture)
    from scripts.figures.rooms import draw_rooms  # matplotlib is imported once the flags are right

    draw_rooms(Path(config.output))


if __name__ == "__main__":
    run_command(main)
