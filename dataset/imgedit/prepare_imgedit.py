"""Turns ImgEdit's pairs with an edited object into the list, images and masks that stage 2 trains on.

    hf download sysuyy/ImgEdit --repo-type dataset --local-dir data/ImgEdit \\
        --include "Parquet/remove_part5*" "Singleturn/results_remove_laion_part5*"
    hf download sysuyy/ImgEdit_recap_mask --repo-type dataset --local-dir data/ImgEdit_masks \\
        --include "jsons/*"
    python dataset/imgedit/prepare_imgedit.py --data-path data/ImgEdit --masks-path data/ImgEdit_masks \\
        --output-dir data/imgedit

imgedit.jsonl              file_name, edited_image, mask_image, edit_prompt
images/, masks/            one folder for each parquet file; masks are white where the edit may be
imgedit_preparation/       what is done: start the command again after a stop, or with more files;
                           bad_items.txt there names the rows that cannot be used

Archives are read where they lie, cut ones too; folders of their names in which they were unpacked serve as
well. A pair's mask is the `mask.png` beside it, else that of the object which its `result.json` names, out of
--masks-path. Train with `--dataset editing_ultraedit --text-field instruction --data-path
data/imgedit/imgedit.jsonl`. Multi-turn files, styles, actions and pairs of several sources have no such mask.
"""

from __future__ import annotations

from dataset.imgedit.flags import PrepareImgEditConfig
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(PrepareImgEditConfig)
    # PyTorch and Arrow are imported once the flags are right.
    from dataset.imgedit.preparation import prepare_imgedit

    prepare_imgedit(config)


if __name__ == "__main__":
    run_command(main)
