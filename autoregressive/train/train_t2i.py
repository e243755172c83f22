"""Stage 1: text-to-image training, any-order for R-GPT models. `python … --help` lists the flags."""

from __future__ import annotations

from torch.utils.data import Dataset

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.train.config import T2IConfig
from autoregressive.train.dry_run import dry_run
from autoregressive.train.inputs import Encoders, t2i_inputs
from autoregressive.train.loop import fit
from autoregressive.train.preview import t2i_preview
from autoregressive.train.setup import (
    build_model,
    find_resume_point,
    load_dataset,
    load_encoders,
    load_packed,
)
from runtime.config import parse
from runtime.distributed import Distributed, distributed
from runtime.errors import run_command


def train(config: T2IConfig, ranks: Distributed) -> None:
    config = find_resume_point(config, ranks)
    encoders = load_encoders(config, ranks.device, tokenizer_precision=config.tokenizer_precision)
    dataset = load_images(config, encoders, ranks)
    model = build_model(config, encoders, ranks.device, mask_in_context=False)
    pipeline = EditingPipeline(encoders.tokenizer, model, encoders.text_encoder)
    preview = t2i_preview(pipeline, dataset, config)
    inputs = t2i_inputs(model, encoders, config, ranks.device)
    if config.dry_run:
        dry_run(model, dataset, inputs, config, ranks, pipeline)
    else:
        fit(model, dataset, inputs, config, ranks, preview)


def load_images(config: T2IConfig, encoders: Encoders, ranks: Distributed) -> Dataset:
    """The dataset of `--packed-data` or `--data-path`."""
    if config.packed_data:
        return load_packed(config, encoders, "t2i")
    options = {}
    if config.dataset != "t2i_cc12m":
        options = {"t5_feat_path": config.t5_feat_path, "short_t5_feat_path": config.short_t5_feat_path}
    if config.dataset == "t2i_code":
        grid = config.image_size // encoders.tokenizer.config.downsampling
        options |= {"grid": grid, "codebook_size": encoders.tokenizer.config.codebook_size}
    return load_dataset(config, encoders, ranks, **options)


def main() -> None:
    config = parse(T2IConfig)
    with distributed(config.device) as ranks:
        train(config, ranks)


if __name__ == "__main__":
    run_command(main)
