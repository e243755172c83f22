"""Checks a MagicBrush test folder and adds what evaluation needs, or makes a training set of the hub's files.

python dataset/prepare_magicbrush.py --magicbrush-path MagicBrush/test --write-white-masks
torchrun --nproc_per_node=4 dataset/prepare_magicbrush.py --magicbrush-path MagicBrush/test \\
    --t5-path pretrained_models/t5-ckpt --t5-model-type flan-t5-xl
python dataset/prepare_magicbrush.py --hub-parquet MagicBrush/data --output-dir data/magicbrush

Test folder: counts sessions and edits and reads every image. `--write-white-masks` writes X-maskK_white.png
beside X-maskK.png, white = edit. `--t5-path` writes the features of the instructions, t5/<id>_<k>.npy, and
edit_sessions_with_instruction_t5.json, which names them and which `--with_t5_prompt` reads.

Hub files (train and dev): magicbrush.jsonl with images/ and masks/ (white = edit). Train with `--dataset
editing_ultraedit --text-field instruction`, for they hold no captions.

Everything can be stopped and started again. What cannot be used is named in magicbrush_bad_items.txt, for hub
files in magicbrush_preparation/bad_items.txt.
"""

from __future__ import annotations

from dataset.prepare.flags import PrepareMagicBrushConfig
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(PrepareMagicBrushConfig)
    # PyTorch and Arrow are imported once the flags are right.
    from dataset.prepare.magicbrush import prepare

    prepare(config)


if __name__ == "__main__":
    run_command(main)
