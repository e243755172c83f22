"""The flags of plan_run.py."""

from __future__ import annotations

from dataclasses import dataclass

from autoregressive.models.config import GPT_MODELS
from runtime.config import check_ranges, option
from runtime.errors import UserError
from runtime.flags import models, training
from runtime.flags.ranges import COUNT, POSITIVE, SHARE, SHARE_ABOVE_NONE


@dataclass(frozen=True)
class PlanRun:
    """Says what a training would take, by arithmetic."""

    stage: str = option("editing", help="which training", choices=["t2i", "editing"])
    gpt_model: str = models.gpt_model("R-GPT-XL", sorted(GPT_MODELS))
    image_size: int = models.image_size(what="the images, pixels")
    cell_size: int = option(16, within=COUNT, help="pixels of a cell's side")
    codebook_size: int | None = models.codebook_size("codes of the tokenizer (default: the published 16,384)")
    t5_feature_dim: int | None = models.t5_feature_dim(
        "width of the text features (default: the published 2048)"
    )
    num_samples: int = option(16_000_000, within=COUNT, help="pairs in the data")
    epochs: int = training.epochs(1, "passes over the data")
    text_tokens: float = option(30.0, within=POSITIVE, help="tokens of a text, on average")
    edited_share: float = option(0.3, within=SHARE, help="cells that an edit changes, on average")
    global_batch_size: int = training.global_batch_size(256, "samples")
    num_gpus: int = option(8, within=COUNT, help="ranks, one a GPU")
    gpu: str = training.gpu("H100", ", as A100, H100, H200, B200")
    peak_tflops: float | None = training.peak_tflops("in the place of --gpu's")
    utilisation: float = option(0.35, within=SHARE_ABOVE_NONE, help="share of the peak that is reached")
    parallel: str = training.parallel()
    shard_size: int | None = training.shard_size()
    optimizer: str = training.optimizer(["adamw", "adamw8bit", "muon"])
    ema_decay: float = training.ema_decay(0.0, "above 0: an average of the weights is kept")
    ckpt_every: int = training.ckpt_every("checkpoints")
    max_checkpoints: int = training.max_checkpoints(3)

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        training.require_parallel(self.parallel, self.shard_size)
        if self.num_samples < self.global_batch_size:
            few, batch = self.num_samples, self.global_batch_size
            raise UserError(f"--num-samples {few} are less than one --global-batch-size {batch}")
        if self.image_size % self.cell_size:
            size, cell = self.image_size, self.cell_size
            raise UserError(f"--image-size {size} is not a multiple of --cell-size {cell}")
