"""The flags of both training stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.models.config import BLOCK_MATRICES, GPT_MODELS
from autoregressive.sequence.order_kinds import ORDER_KINDS, REGION_ORDERS
from autoregressive.train.flags.data import DataConfig
from autoregressive.train.flags.schedule import require_schedule
from autoregressive.train.flags.start import flags_of_model
from autoregressive.train.flags.validation import ValidationConfig
from dataset.choices import DATASET_NAMES, RULES, TEXT_FIELDS
from dataset.packed.flags import require_no_pixel_flags
from runtime.config import check_ranges, legacy, option
from runtime.errors import UserError
from runtime.flags import drawing, models, shared, training
from runtime.flags.ranges import (
    COUNT,
    COUNT_OR_NONE,
    POSITIVE,
    RATE,
    SHARE,
    SHARE_ABOVE_NONE,
)

# What `--model` decides; the rest a training may change.
_OF_FILES = ("vq_ckpt", "init_gpt_ckpt", "gpt_model", "cls_token_num")
# Of flags that neither the command nor `--model` gives.
_DEFAULTS = {"gpt_model": "R-GPT-XL", "image_size": 256, "cls_token_num": 120, "mask_rule": "published"}


def step_limit(max_steps: int | None) -> int | None:
    """After how many steps `--max-steps` stops a training; None = never, its epochs end it."""
    return max_steps if max_steps is not None and max_steps > 0 else None


@dataclass(frozen=True)
class TrainConfig(DataConfig):
    """Flags that the two stages share."""

    NEEDED: ClassVar[tuple[str, ...]] = ("data_path", "model", "vq_ckpt", "results_dir", "dry_run")
    TOPICS: ClassVar[dict[str, str]] = {
        "results_dir": "results and packed data",
        "model_name": "the model and what it starts from",
        "dropout_p": "dropout",
        "epochs": "length and batches",
        "optimizer": "optimizer and schedule",
        "mixed_precision": "speed and memory",
        "log_every": "logs, checkpoints, previews",
        "dry_run": "running",
    }

    results_dir: str = shared.results_dir("results", "folder for checkpoints, metrics.jsonl and previews")
    packed_data: list[str] | None = option(
        None,
        help="folders of packed training data, or URLs (s3://bucket/folder), in the place of --data-path",
    )
    packed_weights: list[float] | None = option(
        None, within=POSITIVE, help="how often each of them is drawn, in proportion (default: by size)"
    )
    data_cache_dir: str | None = option(
        None, help="folder on this machine's own disk for packed data of URLs (default: ~/.cache/nep/packed)"
    )
    data_cache_gb: float = option(
        100.0, within=POSITIVE, help="most that this folder may take; what was used least lately goes"
    )
    model: str | None = models.model("; the training goes on from it")
    model_name: str | None = models.model_name("the first that this stage trains")
    gpt_model: str = models.gpt_model(_DEFAULTS["gpt_model"], sorted(GPT_MODELS), of_model=True)
    image_size: int = models.image_size(_DEFAULTS["image_size"], of_model=True)
    gpt_ckpt: str | None = models.gpt_ckpt(None, "checkpoint of this very run, to go on exactly")
    auto_resume: bool = training.auto_resume()
    init_gpt_ckpt: str | None = training.init_gpt_ckpt(
        "weights to start from: LlamaGen, RLlamaGen, NEP or ours; --gpt-ckpt wins"
    )
    codebook_init: bool = option(
        False, help="fresh code embeddings and output head begin as the tokenizer's codebook, rotated"
    )
    own_cell: bool = training.own_cell()
    lora_rank: int = training.lora_rank()
    lora_alpha: float | None = training.lora_alpha()
    lora_dora: bool = training.lora_dora()
    lora_train_tables: bool = training.lora_train_tables()
    lora_targets: list[str] | None = training.lora_targets(BLOCK_MATRICES)
    cls_token_num: int = models.cls_token_num(_DEFAULTS["cls_token_num"], "text slots", of_model=True)
    dropout_p: float = training.dropout_p(0.1, "residual and feed-forward dropout")
    token_dropout_p: float = option(0.1, within=RATE, help="embedding dropout")
    drop_path: float = option(
        0.0, within=RATE, help="drop-path rate of the last layer", aliases=["drop_path_rate"]
    )
    class_dropout_p: float = option(0.1, within=SHARE, help="share of captions dropped for guidance")

    cache_codes: bool = option(
        False, help="encode what the training will see once, before it, and keep the result in memory"
    )

    epochs: int = training.epochs(1, "passes over the data")
    max_steps: int | None = training.max_steps()
    global_batch_size: int = training.global_batch_size(256, "samples")
    gradient_accumulation_steps: int = training.gradient_accumulation_steps()
    global_seed: int = training.global_seed("of the data order and of every random choice")
    optimizer: str = training.optimizer(["adamw", "adamw8bit", "muon", "sgd"])
    lr: float = training.lr("AdamW, SGD")
    muon_lr: float = training.muon_lr()
    weight_decay: float = training.weight_decay()
    beta1: float = training.beta1()
    beta2: float = training.beta2()
    max_grad_norm: float = training.max_grad_norm()
    lr_scheduler: str = option("constant", help="schedule", choices=["constant", "cosine", "onecycle"])
    lr_scheduler_annealing: str = option(
        "none",
        help="one-cycle shape; cos or linear choose --lr-scheduler onecycle",
        choices=["none", "cos", "linear"],
    )
    warmup_steps: int = training.warmup_steps()
    pct_start: float = option(
        0.05, within=SHARE_ABOVE_NONE, help="one-cycle: share of the steps spent rising"
    )
    final_div_factor: float = option(1e4, within=POSITIVE, help="one-cycle: start rate over final rate")
    mixed_precision: str = training.mixed_precision()
    tokenizer_precision: str = option(
        "none",
        help="autocast type of the frozen tokenizer; bf16 is faster and turns some codes into neighbours",
        choices=["none", "bf16"],
    )
    pack_rows: str = option(
        "auto", help="a batch as one row without padding; auto: on GPUs", choices=["auto", "on", "off"]
    )
    compile: bool = shared.compile("the training step: slow to start, then faster on GPUs")
    activation_checkpointing: bool = option(
        False, help="recompute each block in the backward pass: less memory, a third more time"
    )
    recompute_every: int = option(
        1, within=COUNT, help="with it: the first of so many blocks alone, 2 for half of them"
    )
    parallel: str = training.parallel()
    shard_size: int | None = training.shard_size()
    ema_decay: float = training.ema_decay(0.0, "keep an average of the weights with this decay; 0 for none")

    peak_tflops: float | None = training.peak_tflops(
        "for the model FLOP utilisation in the log (default: known for some GPUs)"
    )
    log_every: int = training.log_every()
    ckpt_every: int = training.ckpt_every("checkpoints")
    checkpoint: str = training.checkpoint()
    max_checkpoints: int = training.max_checkpoints(0)
    no_epoch_save: bool = option(False, help="no checkpoint at the end of each epoch")
    preview_every: int = training.preview_every()
    cfg_scale: float = drawing.cfg_scale("guidance of previews and validation")
    cfg_interval: int = drawing.cfg_interval("last step with guidance there")
    temperature: float = drawing.temperature("of the draws there")
    top_k: int = drawing.top_k("likeliest codes kept there")
    top_p: float = drawing.top_p("share of probability kept there")
    dry_run: bool = training.dry_run()
    wandb_project: str | None = training.wandb_project()

    no_cloud_save: bool = legacy("checkpoints always go to --results-dir", takes_value=False)
    no_local_save: bool = training.no_local_save()
    cloud_save_path: str = training.cloud_save_path()
    gpt_type: str = models.gpt_type()
    num_classes: str = models.num_classes()
    no_left_padding: bool = models.no_left_padding()
    set_max_len: bool = legacy(
        "sequences are as long as their batch needs; padding them changes no number", takes_value=False
    )
    prepare_dataset: bool = legacy(
        "features are made by language/extract_t5_feature.py, or on the fly with --t5-path", takes_value=False
    )

    stage_draws: ClassVar[bool] = True
    """Whether the stage trains models without marks."""

    def __post_init__(self) -> None:
        self._take_model()
        if self.device == "mps":
            raise UserError("--device mps: trainings use 64-bit numbers, which Apple GPUs lack; give cpu")
        check_ranges(type(self), vars(self))
        if self.packed_data:
            require_no_pixel_flags(self)
        elif self.packed_weights:
            raise UserError("--packed-weights goes with --packed-data")
        elif not self.has_lists:
            raise UserError("--data-path is missing: give a .jsonl list (or several), or --packed-data")
        if not self.vq_ckpt:
            raise UserError("--vq-ckpt is missing: give the tokenizer's checkpoint, or --model")
        if self.codebook_init and self.init_gpt_ckpt:
            raise UserError("--codebook-init is for fresh weights; --init-gpt-ckpt brings its own")
        if self.max_text_tokens > self.cls_token_num:
            raise UserError(
                f"--t5-feature-max-len {self.max_text_tokens} exceeds the model's --cls-token-num "
                f"{self.cls_token_num}"
            )
        if self.recompute_every > 1 and not self.activation_checkpointing:
            raise UserError("--recompute-every goes with --activation-checkpointing")
        if self.pack_rows == "on" and self.drop_path > 0:
            raise UserError("--pack-rows on does not go with --drop-path, which drops whole rows")
        require_schedule(self)
        training.require_parallel(self.parallel, self.shard_size)
        training.require_lora(self)
        self.sampling()  # checks its values
        training.require_optimizer(self.optimizer, self.mixed_precision)

    def _take_model(self) -> None:
        """Puts the flags of `--model` in its place, and `_DEFAULTS` where nothing else is said.

        Raises:
          UserError: a flag that says another thing, or a folder that cannot be used.
        """
        known = {}
        if self.model is not None:
            known = flags_of_model(self.model, self.model_name, draws=self.stage_draws)
        for name, value in (_DEFAULTS | known).items():
            if not hasattr(self, name):
                continue
            given, default = getattr(self, name), getattr(type(self), name)
            if name in known and name in _OF_FILES and given not in (default, value):
                raise UserError(
                    f"--{name.replace('_', '-')} {given} contradicts --model {self.model} ({value}): "
                    "leave one of them out"
                )
            if given == default:
                object.__setattr__(self, name, value)
        object.__setattr__(self, "model", None)
        object.__setattr__(self, "model_name", None)

    @property
    def has_lists(self) -> bool:
        """Whether there are pictures to read."""
        return bool(self.data_path)

    @property
    def max_text_tokens(self) -> int:
        return self.cls_token_num if self.t5_feature_max_len is None else self.t5_feature_max_len

    @property
    def schedule(self) -> str:
        """`--lr-scheduler`; naming a one-cycle shape, as the published commands do, chooses onecycle."""
        return self.lr_scheduler if self.lr_scheduler_annealing == "none" else "onecycle"

    def packs_rows(self, device_type: str) -> bool:
        """Whether batches become one row without padding on such a device."""
        if self.pack_rows == "auto":
            return device_type == "cuda" and self.drop_path == 0
        return self.pack_rows == "on"

    def sampling(self) -> Sampling:
        """How previews and validation draw."""
        return Sampling(self.cfg_scale, self.cfg_interval, self.temperature, self.top_k, self.top_p)


@dataclass(frozen=True)
class T2IConfig(TrainConfig):
    """Stage 1: trains a text-to-image transformer, any-order for R-GPT models."""

    TOPICS: ClassVar[dict[str, str]] = {"dataset": "stage 1"}
    EXAMPLES: ClassVar[str] = """
  torchrun --nproc_per_node=8 autoregressive/train/train_t2i.py --vq-ckpt vq_ds16_t2i.pt \\
      --data-paths a.jsonl --init-gpt-ckpt t2i_XL_stage1_256.pt --gpt-model R-GPT-XL --image-size 256 \\
      --global-batch-size 360 --results-dir results/stage1
  python autoregressive/train/train_t2i.py --config results/stage1/config.yaml --auto-resume
"""

    dataset: str = shared.dataset([n for n in DATASET_NAMES if "t2i" in n])
    t5_feat_path: str | None = shared.t5_feat_path()
    short_t5_feat_path: str | None = option(None, help="features of short captions, drawn with chance 0.3")
    region_share: float = training.region_share(0.0)
    region_orders: list[str] = training.region_orders(REGION_ORDERS, ORDER_KINDS)
    eval_order_version_id: int = option(1, help="order of previews: 1 raster, 2 random", choices=[1, 2])

    no_compile: bool = legacy("steps are compiled with --compile alone", takes_value=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.packed_data and (self.t5_feat_path or self.short_t5_feat_path):
            raise UserError("--packed-data holds its texts: it goes without --t5-feat-path")
        if self.cache_codes and self.short_t5_feat_path:
            raise UserError("--cache-codes keeps one text an image: it needs no --short-t5-feat-path")
        if self.region_share and not GPT_MODELS[self.gpt_model].any_order:
            raise UserError(
                f"--region-share is for R-GPT models: {self.gpt_model} draws in raster order only"
            )
        if self.region_orders != list(REGION_ORDERS) and not self.region_share:
            raise UserError("--region-orders goes with --region-share, the share of samples with a region")
        if self.eval_order_version_id == 2 and not GPT_MODELS[self.gpt_model].any_order:
            raise UserError(
                f"--eval-order-version-id 2 is for R-GPT models: {self.gpt_model} draws in raster order only"
            )


@dataclass(frozen=True)
class EditingConfig(TrainConfig, ValidationConfig):
    """Stage 2: fine-tunes for editing."""

    TOPICS: ClassVar[dict[str, str]] = {"dataset": "stage 2"}
    NEEDED: ClassVar[tuple[str, ...]] = ("data", *TrainConfig.NEEDED)
    EXAMPLES: ClassVar[str] = """
  nep train editing --data my_pairs/ --model shapes --results-dir results/mine --dry-run
  torchrun --nproc_per_node=4 autoregressive/train/train_editing.py --vq-ckpt vq_ds16_t2i.pt \\
      --data-path ultraedit.jsonl --init-gpt-ckpt RLlamaGen.pt --gpt-model R-GPT-XL --image-size 256 \\
      --mask_in_context --global-batch-size 16 --lr 1e-4 --results-dir results/stage2
  python autoregressive/train/train_editing.py --config results/stage2/config.yaml --auto-resume
"""

    data: str | None = shared.data("they are checked, and their list goes to --results-dir")
    dataset: str = shared.dataset(["editing_ultraedit"])
    mask_in_context: bool = option(False, help="give the model the row of edit/keep marks")
    supervise_marks: bool = option(
        False, help="edited cells are predicted at their marks too: learns faster what an instruction means"
    )
    text_field: str | None = shared.text_field(TEXT_FIELDS)
    mask_rule: str = shared.mask_rule(RULES, of_model=True)
    mask_dilation: int = option(
        0, within=COUNT_OR_NONE, help="widen half of the masks by 0 to this many pixels"
    )
    mask_jitter: int = shared.mask_jitter()
    edit_orders: list[str] = training.edit_orders(["raster"], ORDER_KINDS)
    full_mask_share: float = option(
        0.0, within=SHARE, help="share of samples that train full regeneration instead"
    )
    enforce_fake_masking: bool = option(False, help="every sample trains full regeneration")
    center_crop: bool = shared.center_crop()
    random_flip: bool = shared.random_flip()

    t5_feat_path: str = legacy("an editing list names its features itself: target_caption_t5_path")
    short_t5_feat_path: str = legacy("an editing list has one text a line")
    fake_masking: bool = legacy("a mask of NONE trains full regeneration already", takes_value=False)

    stage_draws: ClassVar[bool] = False

    @property
    def has_lists(self) -> bool:
        return bool(self.data_path or self.data)

    def __post_init__(self) -> None:
        if self.data and (self.data_path or self.packed_data):
            other = "--data-path" if self.data_path else "--packed-data"
            raise UserError(f"--data {self.data} and {other} both say what to train on: give one")
        TrainConfig.__post_init__(self)
        ValidationConfig.__post_init__(self)
        if not GPT_MODELS[self.gpt_model].any_order:
            raise UserError(f"editing needs an R-GPT model: {self.gpt_model} draws in raster order only")
        if self.supervise_marks and not self.mask_in_context:
            raise UserError("--supervise-marks needs the row of marks: add --mask_in_context")
