"""Packs edit pairs: the work of extract_codes_editing.py."""

from __future__ import annotations

from autoregressive.train.components import load_encoders, read_dataset
from autoregressive.train.packing.config import PackEditsConfig
from autoregressive.train.packing.shards import pack, packed_settings
from runtime.distributed import Distributed


def extract(config: PackEditsConfig, ranks: Distributed) -> None:
    """Packs what is missing; see the head of extract_codes_editing.py.

    Raises:
      UserError: bad input, other settings in the output folder, too little disk space, too many bad pairs.
    """
    encoders = load_encoders(config, ranks.device)
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
    of_kind = {
        "mask_rule": config.mask_rule,
        "text_field": getattr(dataset.records, "text_field", config.text_field),
    }
    settings = packed_settings(
        dataset, encoders, config, views=config.views, seed=config.global_seed, **of_kind
    )
    pack(dataset, encoders, settings, config, ranks)
