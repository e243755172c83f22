"""Scores results on the Emu Edit test set, which has no reference results: against source and captions.

    python evaluations/editing/emuedit_eval.py --generated_path results/samples --gt_path data/images_valid \\
        --caption_path assets/emu_test_data.json --save_path results/scores

`l1`, `l2`, `clip-i` and `dino` compare with the *source*, so that copying it would be perfect. `clip-t` asks
for `clip-out`, the similarity to the output caption, and `clip-dir`, whether the image moved as the captions
did (on raw features, as published; 0 for a result that is its source unchanged); `clip-dir-l14` is
InstructPix2Pix's variant of it (ViT-L/14, features of length 1), with CLIP's own preprocessing. Several
folders after --generated_path are seeds of one model.
"""

from __future__ import annotations

from evaluations.editing.flags import EmuEvalConfig
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(EmuEvalConfig)
    from evaluations.editing.emu_scores import run  # PyTorch is imported once the flags are right

    run(config)


if __name__ == "__main__":
    run_command(main)
