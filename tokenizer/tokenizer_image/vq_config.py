"""The command line of tokenizer training; the defaults are LlamaGen's for VQ-16 and VQ-8."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from runtime.config import check_ranges, legacy, option
from runtime.errors import UserError
from runtime.flags import models, scoring, shared, training
from runtime.flags.ranges import (
    COUNT,
    COUNT_OR_NONE,
    SHARE,
    WEIGHT,
)
from tokenizer.tokenizer_image.lpips_files import find_lpips_weights
from tokenizer.tokenizer_image.vq_registry import VQ_MODELS

DISCRIMINATOR_LOSS_NAMES = ("hinge", "vanilla", "non-saturating")  # of tokenizer_image.losses, as published
GENERATOR_LOSS_NAMES = ("hinge", "non-saturating")
SMALLEST_JUDGED = 24  # pixels a side that leave the discriminator one logit
DEFAULT_STEPS = 400_000  # 40 epochs of ImageNet at 128 images a step, as published


@dataclass
class VQTrainConfig:
    """Train an image tokenizer."""

    TOPICS: ClassVar[dict[str, str]] = {
        "data_path": "data",
        "vq_model": "model and results",
        "steps": "optimizer, schedule, speed",
        "reconstruction_loss": "losses",
        "quantize_after": "codebook",
        "vq_ckpt": "going on, logs, checkpoints",
    }

    data_path: str = option(
        help="folder of images, jsonl file with image_path on each line, or folder of such files"
    )
    data_face_path: str | None = option(
        None, help="more images, as --data-path; of a folder's jsonl files those called *_face.jsonl, if any"
    )
    allow_outside_root: bool = shared.allow_outside_root()
    absolute_paths: bool = shared.absolute_paths()
    image_size: int = models.image_size(what="the square training images, pixels")
    max_images: int | None = option(None, within=COUNT, help="use only the first so many images")
    augment: bool = option(True, help="random crop of 80-100 % and random mirroring, as published")
    cache_images: bool = option(False, help="decode every image once and keep it (needs --no-augment)")
    num_workers: int = shared.num_workers(2, "image loading processes; 0 loads in the training process")
    vq_model: str = option("VQ-16", help="tokenizer configuration", choices=tuple(VQ_MODELS))
    codebook_size: int | None = models.codebook_size("number of codes, instead of the configuration's")
    codebook_embed_dim: int | None = models.codebook_embed_dim(
        "width of a code, instead of the configuration's"
    )
    dropout_p: float = training.dropout_p(0.0, "dropout in the residual blocks")
    results_dir: str = shared.results_dir(
        "results/tokenizer", "folder for checkpoints, previews and metrics.jsonl"
    )

    steps: int | None = option(None, within=COUNT, help=f"optimizer steps in all (default: {DEFAULT_STEPS})")
    epochs: int | None = training.epochs(None, "passes over the images, instead of --steps")
    global_batch_size: int = training.global_batch_size(128, "images")
    gradient_accumulation_steps: int = training.gradient_accumulation_steps()
    global_seed: int = training.global_seed("seed of weights, data order and augmentation")
    optimizer: str = training.optimizer(["adamw", "muon"])
    lr: float = training.lr()
    muon_lr: float = training.muon_lr()
    beta1: float = training.beta1()
    beta2: float = training.beta2()
    weight_decay: float = training.weight_decay()
    max_grad_norm: float = training.max_grad_norm()
    lr_schedule: str = option("constant", help="learning rate over the run", choices=("constant", "cosine"))
    warmup_steps: int = training.warmup_steps()
    mixed_precision: str = training.mixed_precision()
    compile: bool = shared.compile("the networks: minutes at the start, then faster steps")
    parallel: str = training.parallel()
    shard_size: int | None = training.shard_size()
    ema: bool = option(False, help="keep an average of the weights; it is what gets used afterwards")
    ema_decay: float = training.ema_decay(0.9999, "decay of that average")

    reconstruction_loss: str = option("l2", help="squared or absolute pixel error", choices=("l2", "l1"))
    reconstruction_weight: float = option(1.0, within=WEIGHT, help="weight of that error")
    l1_weight: float = option(0.0, within=WEIGHT, help="weight of the absolute pixel error")
    gradient_weight: float = option(
        0.0, within=WEIGHT, help="weight of the absolute error of pixel differences (edges)"
    )
    codebook_weight: float = option(1.0, within=WEIGHT, help="weight of the codebook and commitment losses")
    commit_loss_beta: float = option(0.25, within=WEIGHT, help="weight of the commitment loss within them")
    entropy_loss_ratio: float = option(
        0.0, within=WEIGHT, help="weight of the loss for sure but evenly used codes"
    )
    perceptual_weight: float = option(1.0, within=WEIGHT, help="weight of LPIPS; 0 needs no weight files")
    vgg_ckpt: str | None = scoring.vgg_ckpt()
    lpips_ckpt: str | None = scoring.lpips_ckpt()
    disc_weight: float = option(
        0.5, within=WEIGHT, help="weight of the adversarial loss; 0 trains no discriminator"
    )
    disc_start: int = option(20_000, within=COUNT_OR_NONE, help="first step with the discriminator")
    disc_type: str = option("patchgan", help="kind of discriminator", choices=("patchgan", "stylegan"))
    disc_loss: str = option("hinge", help="what trains it", choices=DISCRIMINATOR_LOSS_NAMES)
    gen_loss: str = option("hinge", help="what it tells the tokenizer", choices=GENERATOR_LOSS_NAMES)

    quantize_after: int = option(
        0, within=COUNT_OR_NONE, help="train unquantised for so many steps, then start codes by k-means"
    )
    reseed_every: int = option(
        0, within=COUNT_OR_NONE, help="replace unused codes every so many steps; 0 never does"
    )
    reseed_until: float = option(0.7, within=SHARE, help="fraction of the run after which codes stay")

    vq_ckpt: str | None = option(None, help="checkpoint to go on from", aliases=("resume",))
    auto_resume: bool = training.auto_resume()
    finetune: bool = option(False, help="take only the weights from --vq-ckpt and start at step 0")
    log_every: int = training.log_every()
    ckpt_every: int = training.ckpt_every("checkpoints and previews")
    checkpoint: str = training.checkpoint()
    max_checkpoints: int = training.max_checkpoints(3)
    dry_run: bool = training.dry_run()
    bad_sample_budget: float = shared.bad_sample_budget(0.01, of="images")
    device: str = shared.device(choices=("auto", "cpu", "cuda"))

    dataset: str = legacy("--data-path itself shows what it is: images or jsonl files")
    codebook_l2_norm: bool = legacy("codes are always unit vectors", takes_value=False)
    cloud_save_path: str = training.cloud_save_path()
    no_local_save: bool = training.no_local_save()

    def check(self) -> None:
        """Raises UserError for settings that cannot work, alone or together."""
        check_ranges(type(self), vars(self))
        if self.perceptual_weight:
            self.lpips_weights()
        if self.disc_type != "patchgan":
            raise UserError(f"--disc-type {self.disc_type} is not built; published tokenizers use patchgan")
        if self.steps is not None and self.epochs is not None:
            raise UserError("--steps and --epochs both say how long to train: give one")
        if self.cache_images and self.augment:
            raise UserError("--cache-images keeps one crop of every image: add --no-augment, or leave it out")
        cell = VQ_MODELS[self.vq_model].downsampling
        if self.image_size % cell:
            raise UserError(
                f"--image-size {self.image_size} is not a multiple of {cell}, "
                f"the pixels of a cell's side in {self.vq_model}"
            )
        training.require_optimizer(self.optimizer, self.mixed_precision)
        training.require_parallel(self.parallel, self.shard_size)
        if self.finetune and not self.vq_ckpt:
            raise UserError("--finetune needs --vq-ckpt, the checkpoint to start from")

    def check_length(self) -> None:
        """Raises UserError for what the run's `steps` show to be too late, or to fail late."""
        if self.quantize_after >= self.steps > 0:
            raise UserError(
                f"--quantize-after {self.quantize_after}: the run ends at step {self.steps}, before "
                "there are codes; start them earlier or train longer"
            )
        if self.disc_weight and self.disc_start < self.steps and self.image_size < SMALLEST_JUDGED:
            raise UserError(
                f"--image-size {self.image_size}: the discriminator judges images of {SMALLEST_JUDGED} "
                "pixels a side or more; larger images, or --disc-weight 0"
            )

    def lpips_weights(self) -> tuple[Path, Path]:
        """The weight files of LPIPS, given or found."""
        try:
            return find_lpips_weights(self.vgg_ckpt, self.lpips_ckpt)
        except UserError as error:
            raise UserError(f"{error}: --perceptual-weight 0 (or --vgg-ckpt and --lpips-ckpt)") from None

    def num_steps(self, batches_per_epoch: int) -> int:
        """Optimizer steps of the whole run."""
        if self.epochs is not None:
            return self.epochs * batches_per_epoch
        return DEFAULT_STEPS if self.steps is None else self.steps
