"""Turns UltraEdit's parquet files into the list, images and masks that stage 2 trains on.

python dataset/prepare_ultraedit.py --data-path UltraEdit/data --output-dir data/ultraedit

ultraedit.jsonl            file_name, edited_image, mask_image or NONE, edit_prompt, input_ and output_caption
images/, masks/            one folder for each parquet file; masks are white where the edit may be
ultraedit_preparation/     what is done: start the command again after a stop, or with more files;
                           bad_items.txt there names the rows that cannot be used

Image files are kept byte for byte (`--image-format png` or `jpg` encodes others anew). A mask that is white
all over is UltraEdit's sign for a free-form edit: NONE. Train with `--dataset editing_ultraedit --data-path
data/ultraedit/ultraedit.jsonl`; text features can be made first:

python language/extract_t5_feature.py --data-path data/ultraedit/ultraedit.jsonl --caption-key output_caption
"""

from __future__ import annotations

from dataset.prepare.flags import PrepareUltraEditConfig
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(PrepareUltraEditConfig)
    # PyTorch and Arrow are imported once the flags are right.
    from dataset.prepare.ultraedit import prepare_ultraedit

    prepare_ultraedit(config)


if __name__ == "__main__":
    run_command(main)
