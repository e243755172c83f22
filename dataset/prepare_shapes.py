"""Writes the embedded data set of coloured shapes in every format that training and evaluation read.

python dataset/prepare_shapes.py --output-dir data/shapes --num-train 12000 --num-test 500

train/t2i.jsonl                      captioned images (sources and edited images)
train/editing.jsonl                  UltraEdit list of edit pairs; --write-parquet adds editing.parquet
test/                                MagicBrush test set of held-out sessions; shapes.json is for the verifier
test_emu/                            Emu Edit test set, a part of the held-out edits
preview.png                          what it looks like
"""

from __future__ import annotations

from dataset.shapes.flags import PrepareShapesConfig
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(PrepareShapesConfig)
    # PyTorch and Arrow are imported once the flags are right.
    from dataset.shapes.prepare import prepare_shapes

    prepare_shapes(config)


if __name__ == "__main__":
    run_command(main)
