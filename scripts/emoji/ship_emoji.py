"""Makes the files that the project ships in pretrained_models/emoji from a finished `train_emoji.py`.

    python scripts/emoji/ship_emoji.py --results-dir results/emoji

Copies the weights, the text encoder and the licences of the pictures; a model card tells scores and hashes.
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.emoji.config import ShipEmoji


def main() -> None:
    config = parse(ShipEmoji)
    from scripts.emoji.ship import ship  # slow libraries are imported once the flags are right

    ship(config)


if __name__ == "__main__":
    run_command(main)
