"""Trains the small models that the project ships in pretrained_models/shapes, and scores them.

    python scripts/train_shapes.py --results-dir results/shapes --num-ranks 2   # hours on two CPU cores

Data: the hard setting of the shapes set, with jittered places, gradients and textures, and all kinds of edit.
It can be stopped: steps that are done are skipped, an interrupted training goes on. What is scored are the
files in half precision that `scripts/ship_shapes.py` then ships.
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.shapes.config import TrainShapes


def main() -> None:
    config = parse(TrainShapes)
    from scripts.shapes.train import run  # slow libraries are imported once the flags are right

    run(config)


if __name__ == "__main__":
    run_command(main)
