"""Packs edit pairs for training: codes, mask bits and text features in place of images, masks and captions.

    torchrun --nproc_per_node 8 autoregressive/train/extract_codes_editing.py \\
        --data-path data/ultraedit.jsonl --packed-path data/ultraedit_packed \\
        --vq-ckpt pretrained_models/vq_ds16_t2i.pt --image-size 256 \\
        --t5-path pretrained_models/t5-ckpt --center-crop

Then `train_editing.py --packed-data data/ultraedit_packed`. The flags are those of the training. Crops, flips
and `--mask-jitter` are drawn here: `--views 4 --random-flip` stores four of each pair, and training takes one
of them each time. Masks are stored as cells by `--mask-rule`, so training cannot widen them
(`--mask-dilation`).

A run that was stopped goes on when it is started again, on any number of ranks, and its shards are the same
byte by byte. On a finished folder the command checks every shard; what is damaged is made again. Pairs that
cannot be used are named in `<packed-path>/unusable.txt` and by the training that meets them; run again once
they are repaired.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from autoregressive.train.packing import pack, packed_settings
from autoregressive.train.packing_config import PackingConfig
from autoregressive.train.setup import load_encoders, read_dataset
from dataset.choices import RULES, TEXT_FIELDS
from runtime.config import option, parse
from runtime.distributed import Distributed, distributed
from runtime.errors import UserError, run_command
from runtime.logging import get_logger
from runtime.ranges import COUNT, COUNT_OR_NONE, SEED


@dataclass(frozen=True)
class PackEditsConfig(PackingConfig):
    """Packs edit pairs for training: codes, mask bits and text features."""

    dataset: str = option("editing_ultraedit", help="format of the data", choices=["editing_ultraedit"])
    text_field: str = option("target_caption", help="what the model is told", choices=list(TEXT_FIELDS))
    mask_rule: str = option("published", help="pixel mask to cells", choices=RULES)
    mask_jitter: int = option(
        0, within=COUNT_OR_NONE, help="widen or shrink, and shift, each mask by up to this many pixels"
    )
    center_crop: bool = option(False, help="crop the middle instead of a random place")
    random_flip: bool = option(False, help="mirror half of the views")
    views: int = option(1, within=COUNT, help="crops, flips and jittered masks of each pair")
    global_seed: int = option(0, within=SEED, help="of these: those of a training's epochs with that seed")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.packed_path:
            raise UserError("--packed-path is missing: give a folder for the packed data")
        if self.views > 1 and self.center_crop and not (self.random_flip or self.mask_jitter):
            raise UserError(
                f"--views {self.views} of a centre crop are all the same: leave out --center-crop, or add "
                "--random-flip or --mask-jitter"
            )


def extract(config: PackEditsConfig, process: Distributed) -> None:
    """Packs what is missing; see the head of this file.

    Raises:
      UserError: bad input, other settings in the output folder, too little disk space, too many bad pairs.
    """
    encoders = load_encoders(config, process.device)
    dataset = read_dataset(
        config,
        encoders,
        grid=config.image_size // encoders.tokenizer.config.downsampling,
        text_field=config.text_field,
        mask_rule=config.mask_rule,
        mask_jitter=config.mask_jitter,
        center_crop=config.center_crop,
        random_flip=config.random_flip,
    )
    of_kind = {"mask_rule": config.mask_rule, "text_field": config.text_field}
    settings = packed_settings(
        dataset, encoders, config, views=config.views, seed=config.global_seed, **of_kind
    )
    pack(dataset, encoders, settings, config, process)


def main() -> None:
    config = parse(PackEditsConfig)
    get_logger("t5").setLevel(logging.ERROR)  # a truncation notice a batch would drown the progress bar
    with distributed(config.device) as process:
        extract(config, process)


if __name__ == "__main__":
    run_command(main)
