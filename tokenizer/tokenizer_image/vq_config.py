"""The command line of tokenizer training; the defaults are LlamaGen's for VQ-16 and VQ-8."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from runtime.config import check_ranges, legacy, option
from runtime.errors import UserError
from runtime.flags import shared
from runtime.flags.ranges import (
    COUNT,
    COUNT_OR_NONE,
    LEARNING_RATE,
    PERIOD,
    RATE,
    SEED,
    SHARE,
    SIZE,
    WEIGHT,
)
from tokenizer.tokenizer_image.lpips_files import find_lpips_weights
from tokenizer.tokenizer_image.vq_registry import VQ_MODELS

DISCRIMINATOR_LOSS_NAMES = ("hinge", "vanilla", "non-saturating")  # of tokenizer_image.losses, as published
GENERATOR_LOSS_NAMES = ("hinge", "non-saturating")
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
    data_face_path: str | None = option(None, help="more images, as --data-path")
    allow_outside_root: bool = shared.allow_outside_root()
    absolute_paths: bool = shared.absolute_paths()
    image_size: int = shared.image_size(what="the square training images")
    max_images: int | None = option(None, within=COUNT, help="use only the first so many images")
    augment: bool = option(True, help="random crop of 80-100 % and random mirroring, as published")
    cache_images: bool = option(False, help="decode every image once and keep it (needs --no-augment)")
    num_workers: int = shared.num_workers(2, "image loading processes; 0 loads in the training process")
    vq_model: str = option("VQ-16", help="tokenizer configuration", choices=tuple(VQ_MODELS))
    codebook_size: int | None = option(
        None, within=COUNT, help="number of codes, instead of the configuration's"
    )
    codebook_embed_dim: int | None = option(
        None, within=SIZE, help="width of a code, instead of the configuration's"
    )
    dropout_p: float = option(0.0, within=RATE, help="dropout in the residual blocks")
    results_dir: str = option("results/tokenizer", help="folder for checkpoints, previews and metrics.jsonl")

    steps: int | None = option(None, within=COUNT, help=f"optimizer steps in all (default: {DEFAULT_STEPS})")
    epochs: int | None = option(None, within=COUNT, help="passes over the images, instead of --steps")
    global_batch_size: int = option(128, within=COUNT, help="images in a step, over all ranks")
    gradient_accumulation_steps: int = option(1, within=COUNT, help="forward passes a step")
    global_seed: int = option(0, within=SEED, help="seed of weights, data order and augmentation")
    optimizer: str = option(
        "adamw", help="muon: Muon on the matrices, AdamW on the rest", choices=("adamw", "muon")
    )
    lr: float = option(1e-4, within=LEARNING_RATE, help="AdamW's peak learning rate")
    muon_lr: float = option(0.02, within=LEARNING_RATE, help="Muon's peak learning rate")
    beta1: float = option(0.9, within=RATE, help="AdamW's first decay")
    beta2: float = option(0.95, within=RATE, help="AdamW's second decay")
    weight_decay: float = option(0.05, within=WEIGHT, help="decoupled weight decay of the matrices")
    max_grad_norm: float = option(
        1.0, within=WEIGHT, help="gradients are clipped to this norm; 0 leaves them"
    )
    lr_schedule: str = option("constant", help="learning rate over the run", choices=("constant", "cosine"))
    warmup_steps: int = option(0, within=COUNT_OR_NONE, help="steps of linear warm-up")
    mixed_precision: str = option("bf16", help="autocast precision", choices=("bf16", "fp16", "none"))
    compile: bool = option(False, help="compile the networks: minutes at the start, then faster steps")
    ema: bool = option(False, help="keep an average of the weights; it is what gets used afterwards")
    ema_decay: float = option(0.9999, within=RATE, help="decay of that average")

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
    vgg_ckpt: str | None = option(
        None, help="torchvision's VGG16 weights, for LPIPS; else from pretrained_models or torch's cache"
    )
    lpips_ckpt: str | None = option(
        None, help="LPIPS's linear layers for VGG16; else pretrained_models/vgg.pth or the lpips package's"
    )
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
    auto_resume: bool = option(
        False, help="go on from the newest whole checkpoint in --results-dir, if there is one"
    )
    finetune: bool = option(False, help="take only the weights from --vq-ckpt and start at step 0")
    log_every: int = option(100, within=COUNT, help="steps between lines in metrics.jsonl")
    ckpt_every: int = option(
        5000,
        within=PERIOD,
        help="steps between checkpoints and previews; 0 or -1: only the last step, which always saves",
    )
    max_checkpoints: int = option(3, within=COUNT_OR_NONE, help="checkpoints kept; 0 keeps all")
    dry_run: bool = option(
        False, help="train nothing: print model size, memory, steps, speed and disk, draw the first batch"
    )
    bad_sample_budget: float = shared.bad_sample_budget(0.01, of="images")
    device: str = shared.device(choices=("auto", "cpu", "cuda"))

    dataset: str = legacy("--data-path itself shows what it is: images or jsonl files")
    codebook_l2_norm: bool = legacy("codes are always unit vectors", takes_value=False)
    cloud_save_path: str = legacy("checkpoints always go to --results-dir")
    no_local_save: bool = legacy("checkpoints always go to --results-dir", takes_value=False)

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
        if self.optimizer == "muon" and self.mixed_precision == "fp16":
            raise UserError("--optimizer muon does not go with fp16 loss scaling; use --mixed-precision bf16")
        if self.finetune and not self.vq_ckpt:
            raise UserError("--finetune needs --vq-ckpt, the checkpoint to start from")

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
