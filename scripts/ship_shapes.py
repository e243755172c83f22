"""Makes the files that the project ships in pretrained_models/shapes from a finished `train_shapes.py`.

    python scripts/ship_shapes.py --results-dir results/shapes

Copies the weights and the text encoder; a model card tells data, commands, scores, curves and hashes.
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.shapes.config import ShipShapes


def main() -> None:
    config = parse(ShipShapes)
    from scripts.shapes.ship import ship  # slow libraries are imported once the flags are right

    ship(config)


if __name__ == "__main__":
    run_command(main)
