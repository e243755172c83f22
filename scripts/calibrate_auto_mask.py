"""Chooses how `--mask auto` gets from scores to cells: a sweep over settings on a validation set.

    python dataset/prepare_shapes.py --output-dir data/shapes_val --seed 1 --num-train 1 --num-test 300
    python scripts/calibrate_auto_mask.py --vq-ckpt vq.pt --gpt-ckpt nep.pt --t5-path t5 --mask-rule exact \\
        --magicbrush-path data/shapes_val/test --output auto_mask.json
    python autoregressive/sample/sample_magicbrush.py ... --auto-mask --auto-mask-settings auto_mask.json

The validation set is in MagicBrush's format and must not be the test set, or the choice would flatter the
result: of the shapes set, one made with another --seed; of MagicBrush, its dev split. Each edit is scored
once, all settings are tried on its scores; they are judged by the mean intersection over union with the cells
of the true masks. Of settings that do equally well the first is taken: the flags' order is an order of
preference.
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.checks.auto_mask_config import CalibrateAutoMask


def main() -> None:
    config = parse(CalibrateAutoMask)
    from scripts.checks.auto_mask import calibrate  # PyTorch is imported once the flags are right

    calibrate(config)


if __name__ == "__main__":
    run_command(main)
