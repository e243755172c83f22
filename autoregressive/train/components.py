"""What both training programs do before the loop: encoders, model, dataset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import Dataset

from autoregressive.adapters.lora import add_lora
from autoregressive.models.config import BLOCK_MATRICES, GPT_MODELS
from autoregressive.models.gpt import Transformer
from autoregressive.models.layers import recompute_every
from autoregressive.models.weights import initialise_from, start_from_codebook
from autoregressive.train.config import TrainConfig, step_limit
from autoregressive.train.flags.data import PUBLISHED_TEXT_WIDTH, DataConfig
from autoregressive.train.inputs import Encoders
from autoregressive.train.loop import Preview
from autoregressive.train.packing.config import PackingConfig
from autoregressive.train.rewards.config import RewardsConfig
from dataset.build import build_dataset
from dataset.cached import CachedEdits, CachedT2I
from dataset.data_order import first_samples
from dataset.packed.codes import CodesDataset
from dataset.packed.dataset import open_packed
from dataset.packed.format import require_same
from dataset.packed.mixed import MixedDataset
from dataset.packed.remote import DataCache
from dataset.records.edit_records import choose_text_field
from dataset.t2i_editing import EditingDataset
from language.published import DEFAULT_T5
from language.t5 import T5Encoder, resolve_t5
from runtime.checkpoint import weights_fingerprint
from runtime.config import dump_config
from runtime.devices import PRECISIONS
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.training.parallel import hollow_copy, shards
from runtime.training.resume import resume_point
from tokenizer.tokenizer_image.vq_model import VQModel, load_vq_model, require_config

log = get_logger(__name__)
PUBLISHED_TOKENIZER = "VQ-16"  # what the published file, which does not say so, holds


def find_resume_point(config: TrainConfig, ranks: Distributed) -> TrainConfig:
    """The settings with the checkpoint to go on from, if any, as `--gpt-ckpt`.

    `config.yaml` keeps those that were given.
    """
    found = resume_point(
        config.gpt_ckpt,
        config.results_dir,
        ranks,
        newest=config.auto_resume,
        saves_nothing=config.dry_run,
    )
    if ranks.is_main and not config.dry_run:
        dump_config(config, config.results_dir)
    return replace(config, gpt_ckpt=found)


def load_tokenizer(config: DataConfig, device: torch.device) -> VQModel:
    """The frozen tokenizer; refused if it is not what the flags say of it."""
    tokenizer = load_vq_model(config.vq_ckpt, config.vq_model or PUBLISHED_TOKENIZER, device=device)
    require_config(
        tokenizer,
        config.vq_ckpt,
        codebook_size=config.codebook_size,
        codebook_embed_dim=config.codebook_embed_dim,
        vocab_size=config.vocab_size,
        downsample_size=config.downsample_size,
        image_size=config.image_size,
    )
    return tokenizer


def load_encoders(
    config: TrainConfig | PackingConfig,
    device: torch.device,
    *,
    needs_text_encoder: bool = False,
    tokenizer_precision: str = "none",
) -> Encoders:
    """The frozen tokenizer, and the text encoder if the flags name one; else all texts must be features.

    Args:
      tokenizer_precision: autocast type of the tokenizer.
      needs_text_encoder: load the default one if the flags name none: validation has words to encode.
    """
    tokenizer = load_tokenizer(config, device)
    if config.t5_path is None and config.t5_model_type is None and not needs_text_encoder:
        text_width = config.t5_feature_dim or PUBLISHED_TEXT_WIDTH
        return Encoders(tokenizer, None, text_width, config.max_text_tokens, tokenizer_precision)
    path = resolve_t5(config.t5_path, config.t5_model_type or DEFAULT_T5)
    text_encoder = T5Encoder(path, device, PRECISIONS[config.precision], config.max_text_tokens)
    if config.t5_feature_dim not in (None, text_encoder.width):
        raise UserError(
            f"--t5-feature-dim {config.t5_feature_dim} contradicts the text encoder {path}, whose width is "
            f"{text_encoder.width}"
        )
    width = text_encoder.width
    return Encoders(tokenizer, text_encoder, width, config.max_text_tokens, tokenizer_precision)


def build_model(
    config: TrainConfig, encoders: Encoders, ranks: Distributed, *, mask_in_context: bool
) -> Transformer:
    """The transformer that fits the encoders, initialised from `--init-gpt-ckpt` if given, with `--lora-rank`
    as an adapter on it.

    It is on the rank's device, or on the CPU if it is to be sharded: it need not fit into a GPU's memory.
    """
    grid = config.image_size // encoders.tokenizer.config.downsampling
    torch.manual_seed(config.global_seed)  # the same weights and buffers on every rank
    model = Transformer(
        replace(
            GPT_MODELS[config.gpt_model],
            mask_in_context=mask_in_context,
            own_cell=config.own_cell,
            vocab_size=encoders.tokenizer.config.codebook_size,
            block_size=grid**2,
            cls_token_num=config.cls_token_num,
            caption_dim=encoders.text_width,
            token_dropout_p=config.token_dropout_p,
            resid_dropout_p=config.dropout_p,
            ffn_dropout_p=config.dropout_p,
            drop_path_rate=config.drop_path,
        )
    )
    if config.codebook_init:
        start_from_codebook(model, encoders.tokenizer.quantize.codebook())
    # A resume brings its own weights; of an adapter not those that it is added to.
    if config.init_gpt_ckpt and (config.lora_rank or not config.gpt_ckpt):
        fresh = initialise_from(model, config.init_gpt_ckpt, config.image_size)
        if fresh and config.lora_rank and not config.lora_train_tables:
            raise UserError(
                f"{config.init_gpt_ckpt} has no {', '.join(fresh)}, which LoRA leaves as they begin: give "
                "--lora-train-tables"
            )
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    log.info(
        "%s: %.2f M parameters, %d cells, %d codes",
        config.gpt_model,
        millions,
        grid**2,
        model.config.vocab_size,
    )
    begin_adapter(model, config)
    if config.activation_checkpointing:
        model.run_block = recompute_every(config.recompute_every)
    return model if shards(config.parallel, ranks) else model.to(ranks.device)


def begin_adapter(model: Transformer, config: TrainConfig | RewardsConfig) -> None:
    """With `--lora-rank`: freezes the model and adds what is trained in its place."""
    if config.lora_rank:
        torch.manual_seed(config.global_seed)
        add_lora(
            model,
            config.lora_rank,
            config.lora_alpha or config.lora_rank,
            str(config.init_gpt_ckpt),
            dora=config.lora_dora,
            train_tables=config.lora_train_tables,
            targets=config.lora_targets or BLOCK_MATRICES,
        )


def shown_model(model: Transformer, config: TrainConfig, ranks: Distributed) -> Transformer | None:
    """What draws in the place of a model that is about to be sharded; None where it need not."""
    return hollow_copy(model, ranks.device) if shards(config.parallel, ranks) else None


def resting(encoders: Encoders, config: TrainConfig, device: torch.device, preview: Preview) -> Preview:
    """`preview` that brings the encoders to the device for as long as it draws, where steps do not need them:
    the data is codes and features. They leave it at once; else it is `preview` as it is."""
    if config.dry_run or not (config.packed_data or config.cache_codes):
        return preview

    def draw(step: int) -> Path:
        encoders.to(device)
        try:
            return preview(step)
        finally:
            encoders.to("cpu")

    encoders.to("cpu")
    return draw


def load_packed(
    config: TrainConfig, encoders: Encoders, kind: str, *, full_mask: bool = False, **settings: str | None
) -> MixedDataset:
    """The folders of `--packed-data`; refused if they were packed for other encoders or settings.

    Args:
      settings: those of edits; None = that of the first folder, which the others must share.
    """
    encoder, cache = encoders.text_encoder, DataCache.of_flags(config.data_cache_dir, config.data_cache_gb)
    datasets = [
        # Half the bytes between processes; the model takes float32 of the same values.
        open_packed(kind, folder, torch.bfloat16, cache, full_mask=full_mask)
        for folder in config.packed_data
    ]
    for name in [name for name, value in settings.items() if value is None]:
        settings[name] = getattr(datasets[0].settings, name)
        log.info(
            "--%s %s: what %s was packed with", name.replace("_", "-"), settings[name], config.packed_data[0]
        )
    for dataset in datasets:
        require_same(
            dataset.manifest,
            weights_fingerprint(encoders.tokenizer),
            None if encoder is None else encoder.fingerprint(),
            image_size=config.image_size,
            text_width=encoders.text_width,
            max_text_tokens=encoders.max_tokens,
            **settings,
        )
    return MixedDataset(datasets, config.packed_weights)


def read_dataset(config: TrainConfig | PackingConfig, encoders: Encoders, **options) -> Dataset:
    """The dataset that the flags name."""
    features_only = encoders.text_encoder is None
    dataset = build_dataset(
        config.dataset,
        config.data_path,
        config.image_size,
        encoders.text_width,
        allow_outside_root=config.allow_outside_root,
        absolute_paths=config.absolute_paths,
        features_only=features_only,
        **options,
    )
    if options.get("text_field") is not None and isinstance(dataset, EditingDataset):
        choose_text_field(dataset.records, options["text_field"], features_only=features_only)
    return dataset


def load_dataset(config: TrainConfig, encoders: Encoders, ranks: Distributed, **options) -> Dataset:
    """The dataset that the flags name; with `--cache-codes` encoded by all ranks and held in memory.

    A training of less than an epoch encodes the samples that it will see, a dry run the first batch only.
    """
    dataset = read_dataset(config, encoders, **options)
    if isinstance(dataset, CodesDataset):
        dataset.require_tokenizer(weights_fingerprint(encoders.tokenizer), config.vq_ckpt)
    if not config.cache_codes or config.dry_run:
        return dataset
    cached = CachedEdits if isinstance(dataset, EditingDataset) else CachedT2I
    steps = step_limit(config.max_steps)
    num_seen = None if steps is None else steps * config.global_batch_size
    first = first_samples(len(dataset), config.global_seed, num_seen)
    if ranks.is_main and len(first) < len(dataset):
        log.info("%d of %d samples are encoded: those of %d steps", len(first), len(dataset), steps)
    return cached(dataset, encoders.codes, encoders.features, ranks, first)
