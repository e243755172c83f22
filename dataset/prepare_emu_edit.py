"""Turns Emu Edit's parquet files into the images that validation and the evaluator read.

python dataset/prepare_emu_edit.py --data-path emu_edit_test_set/data --output-dir data/emu_edit \\
    --valid-list assets/emu_test_data.json

images/<idx>.png             the image to edit of every row
images_valid/<idx>_gt.png    the same files (hard links) for the items of the valid list
emu_test_valid_list.json     that list; without --valid-list the rows whose two captions are there and differ
emu_test_preparation/        what is done: start the command again after a stop; bad_items.txt there names
                             the rows and list items that cannot be used
"""

from __future__ import annotations

from dataset.prepare.flags import PrepareEmuEditConfig
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(PrepareEmuEditConfig)
    # PyTorch and Arrow are imported once the flags are right.
    from dataset.prepare.emu_edit import prepare_emu_edit

    prepare_emu_edit(config)


if __name__ == "__main__":
    run_command(main)
