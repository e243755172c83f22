"""The two stages of training: what each puts together before the loop that they share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from torch.utils.data import Dataset

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.train.components import (
    build_model,
    find_resume_point,
    load_dataset,
    load_encoders,
    load_packed,
    resting,
    shown_model,
)
from autoregressive.train.config import EditingConfig, T2IConfig
from autoregressive.train.dry_run import dry_run
from autoregressive.train.inputs import Encoders, editing_inputs, t2i_inputs
from autoregressive.train.loop import fit
from autoregressive.train.preview import editing_preview, t2i_preview
from autoregressive.train.validation import Validation, read_test_sets
from dataset.records.own_pairs import check_own_pairs, list_line, tell
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.texts import write_text

log = get_logger(__name__)


def train_t2i(config: T2IConfig, ranks: Distributed) -> None:
    """Stage 1, text to image."""
    config = find_resume_point(config, ranks)
    encoders = load_encoders(config, ranks.device, tokenizer_precision=config.tokenizer_precision)
    dataset = load_images(config, encoders, ranks)
    model = build_model(config, encoders, ranks, mask_in_context=False)
    shown = shown_model(model, config, ranks)
    pipeline = EditingPipeline(encoders.tokenizer, shown or model, encoders.text_encoder)
    preview = resting(encoders, config, ranks.device, t2i_preview(pipeline, dataset, config))
    inputs = t2i_inputs(model, encoders, config, ranks.device)
    if config.dry_run:
        dry_run(model, dataset, inputs, config, ranks, pipeline)
    else:
        fit(model, dataset, inputs, config, ranks, preview=preview, shown=shown)


def load_images(config: T2IConfig, encoders: Encoders, ranks: Distributed) -> Dataset:
    """The dataset of `--packed-data` or `--data-path`."""
    if config.packed_data:
        return load_packed(config, encoders, "t2i")
    options = {}
    if config.dataset == "t2i_cc12m":
        if ranks.is_main and (config.t5_feat_path or config.short_t5_feat_path):
            log.warning(
                "--t5-feat-path and --short-t5-feat-path are not read: they are of LlamaGen's folders, and "
                "the lists of --dataset t2i_cc12m name their features themselves"
            )
    else:
        options = {"t5_feat_path": config.t5_feat_path, "short_t5_feat_path": config.short_t5_feat_path}
    if config.dataset == "t2i_code":
        grid = config.image_size // encoders.tokenizer.config.downsampling
        options |= {"grid": grid, "codebook_size": encoders.tokenizer.config.codebook_size}
    return load_dataset(config, encoders, ranks, **options)


def train_editing(config: EditingConfig, ranks: Distributed) -> None:
    """Stage 2, editing, with validation on whole test sets where it is asked for."""
    config = list_own_pairs(find_resume_point(config, ranks), ranks)
    test_sets = read_test_sets(config)
    needs_text_encoder = any(test_set.needs_text_encoder for test_set in test_sets)
    encoders = load_encoders(
        config,
        ranks.device,
        needs_text_encoder=needs_text_encoder,
        tokenizer_precision=config.tokenizer_precision,
    )
    dataset = load_pairs(config, encoders, ranks)
    model = build_model(config, encoders, ranks, mask_in_context=config.mask_in_context)
    shown = shown_model(model, config, ranks)
    pipeline = EditingPipeline(encoders.tokenizer, shown or model, encoders.text_encoder)
    preview = editing_preview(pipeline, dataset, config)
    validate = Validation(test_sets, pipeline, config, ranks) if test_sets else None
    if validate is None:
        preview = resting(encoders, config, ranks.device, preview)
    inputs = editing_inputs(model, encoders, config, ranks.device)
    if config.dry_run:
        dry_run(model, dataset, inputs, config, ranks, pipeline)
    else:
        fit(model, dataset, inputs, config, ranks, preview=preview, validate=validate, shown=shown)


def list_own_pairs(config: EditingConfig, ranks: Distributed) -> EditingConfig:
    """With `--data`: the settings with the list of its pairs, which the first rank checks and writes.

    Raises:
      UserError: on every rank, with all that is to be mended in the folder.
    """
    if config.data is None:
        return config
    path, problem = Path(config.results_dir) / "pairs.jsonl", None
    if ranks.is_main:
        try:
            pairs, notes = check_own_pairs(config.data)
            tell(config.data, pairs, notes)
            lines = "".join(json.dumps(list_line(pair), ensure_ascii=False) + "\n" for pair in pairs)
            write_text(path, lines)
        except UserError as error:
            problem = str(error)
    problem = ranks.gather_objects(problem)[0]  # the others wait here
    if problem is not None:
        raise UserError(problem)
    return replace(config, data=None, data_path=[str(path)], absolute_paths=True)


def load_pairs(config: EditingConfig, encoders: Encoders, ranks: Distributed) -> Dataset:
    """The dataset of `--packed-data` or `--data-path`."""
    settings = {"text_field": config.text_field, "mask_rule": config.mask_rule}
    if config.packed_data:
        return load_packed(config, encoders, "editing", full_mask=config.enforce_fake_masking, **settings)
    return load_dataset(
        config,
        encoders,
        ranks,
        grid=config.image_size // encoders.tokenizer.config.downsampling,
        mask_dilation=config.mask_dilation,
        mask_jitter=config.mask_jitter,
        full_mask=config.enforce_fake_masking,
        center_crop=config.center_crop,
        random_flip=config.random_flip,
        **settings,
    )
