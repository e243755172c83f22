"""The flags of train_rewards.py, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from autoregressive.models.config import BLOCK_MATRICES, GPT_MODELS
from autoregressive.scaling.choices import split_weight
from autoregressive.sequence.order_kinds import ORDER_KINDS
from autoregressive.train.rewards.choices import REGIONS, TASKS
from dataset.choices import RULES, TEXT_FIELDS
from language.published import DEFAULT_T5
from runtime.config import REQUIRED, check_ranges, option
from runtime.errors import UserError
from runtime.flags import drawing, models, scoring, shared, training
from runtime.flags.ranges import COUNT, POSITIVE, SHARE_ABOVE_NONE, WEIGHT, WORKERS, Range


@dataclass(frozen=True)
class RewardsConfig:
    """Trains a model by rewards for what it draws (GRPO): edits, zero-shot edits, images from text."""

    TOPICS: ClassVar[dict[str, str]] = {
        "task": "what is drawn",
        "vq_ckpt": "models",
        "rewards": "rewards",
        "group_size": "policy",
        "global_batch_size": "length and batches",
        "optimizer": "optimizer",
        "results_dir": "results, logs, checkpoints, pictures",
        "num_workers": "running",
    }
    # No flags of this training: draws need whole weights at every step, and --groups-per-pass splits it.
    parallel: ClassVar[str] = "ddp"
    checkpoint: ClassVar[str] = "file"
    gradient_accumulation_steps: ClassVar[int] = 1
    EXAMPLES: ClassVar[str] = """
  python autoregressive/train/train_rewards.py --task editing --data-path data/shapes/train/editing.jsonl \\
      --vq-ckpt pretrained_models/shapes/tokenizer.safetensors --text-field instruction --mask-rule exact \\
      --t5-path pretrained_models/shapes/text_encoder --orders raster random --regions given found \\
      --init-gpt-ckpt pretrained_models/shapes/editing.safetensors --rewards shapes_edit \\
      --results-dir results/rewards
  torchrun --nproc_per_node=8 autoregressive/train/train_rewards.py --config results/rewards/config.yaml \\
      --auto-resume
"""

    task: str = option("editing", help="; ".join(f"{k}: {v}" for k, v in TASKS.items()), choices=tuple(TASKS))
    data_path: list[str] = option(
        REQUIRED, help="lists as stage 2 reads them; of t2i as stage 1 does", aliases=["data_paths"]
    )
    text_field: str | None = shared.text_field(TEXT_FIELDS)
    mask_rule: str = shared.mask_rule(RULES)
    mask_error: int = shared.mask_error()
    regions: list[str] = drawing.regions(
        ["given"], REGIONS, "which cells edits may change, one a prompt; one named twice comes twice as often"
    )
    orders: list[str] = drawing.orders(
        ["raster"], ORDER_KINDS, "of the drawn cells, one a sample; one named twice comes twice as often"
    )
    allow_outside_root: bool = shared.allow_outside_root()
    absolute_paths: bool = shared.absolute_paths()
    bad_sample_budget: float = shared.bad_sample_budget(0.01)

    vq_ckpt: str = models.vq_ckpt(REQUIRED)
    vq_model: str | None = models.vq_model(None)
    init_gpt_ckpt: str = training.init_gpt_ckpt(
        "weights to start from, which the model is held near to; of a model that can do the task", REQUIRED
    )
    gpt_ckpt: str | None = models.gpt_ckpt(None, "checkpoint of this very run, to go on exactly")
    auto_resume: bool = training.auto_resume()
    gpt_model: str | None = models.gpt_model(None, sorted(GPT_MODELS))
    image_size: int | None = models.image_size(None, "the square images, for GPT-* files, pixels")
    lora_rank: int = training.lora_rank()
    lora_alpha: float | None = training.lora_alpha()
    lora_dora: bool = training.lora_dora()
    lora_train_tables: bool = training.lora_train_tables()
    lora_targets: list[str] | None = training.lora_targets(BLOCK_MATRICES)
    t5_path: str | None = models.t5_path()
    t5_model_type: str = models.t5_model_type(DEFAULT_T5)

    rewards: list[str] = option(
        REQUIRED, help="names and weights: shapes_edit:1 clip:0.2, or own ones: module:function:WEIGHT"
    )
    reward_workers: int = option(
        0, within=WORKERS, help="processes that judge while the next groups are drawn; 0: the training itself"
    )
    reward_gpt_ckpt: str | None = option(
        None, help="text-to-image transformer of the reward 'likelihood', which stays as it is"
    )
    clip_model: str | None = scoring.clip_model(None, "the reward 'clip'")
    clip_ckpt: str | None = scoring.clip_ckpt()

    group_size: int = option(8, within=Range(at_least=2), help="samples of each prompt, judged together")
    temperature: float = drawing.temperature("of the draws, and of the probabilities that are trained")
    updates_per_batch: int = option(
        1, within=COUNT, help="updates on the same samples; with 1 none is clipped"
    )
    clip_range: float = option(
        0.2, within=SHARE_ABOVE_NONE, help="share by which a code's probability may move from its draw's"
    )
    kl_weight: float = option(0.01, within=WEIGHT, help="of the divergence from the start (k3 estimator)")

    global_batch_size: int = training.global_batch_size(8, "prompts")
    batch_size: int = shared.batch_size(64, "samples drawn at a time on a rank")
    groups_per_pass: int = option(2, within=COUNT, help="groups trained on at a time on a rank")
    epochs: int = training.epochs(1, "passes over the data")
    max_steps: int | None = training.max_steps()
    global_seed: int = training.global_seed("of the data order, orders and draws")
    optimizer: str = training.optimizer(["adamw", "muon", "sgd"])
    lr: float = training.lr("AdamW, SGD", 1e-5)
    muon_lr: float = training.muon_lr()
    weight_decay: float = training.weight_decay()
    beta1: float = training.beta1()
    beta2: float = training.beta2()
    max_grad_norm: float = training.max_grad_norm()
    warmup_steps: int = training.warmup_steps()
    mixed_precision: str = training.mixed_precision("none")
    ema_decay: float = training.ema_decay(0.0, "keep an average of the weights with this decay; 0 for none")

    results_dir: str = shared.results_dir("results", "folder for checkpoints, metrics.jsonl and pictures")
    log_every: int = training.log_every(10)
    ckpt_every: int = training.ckpt_every("checkpoints", 100)
    max_checkpoints: int = training.max_checkpoints(0)
    preview_every: int = training.preview_every()
    wandb_project: str | None = training.wandb_project()

    num_workers: int = shared.num_workers(1, "loader processes a rank")
    device: str = shared.device()

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        POSITIVE.check("--temperature", self.temperature)
        training.require_lora(self)
        training.require_optimizer(self.optimizer, self.mixed_precision)
        names = [split_weight(word)[0] for word in self.rewards]
        if len(set(names)) < len(names):
            raise UserError(f"--rewards {' '.join(self.rewards)}: name each reward once")
        if "likelihood" in names and self.reward_gpt_ckpt is None:
            raise UserError("--rewards likelihood needs --reward-gpt-ckpt: the model that judges")
        if self.task == "t2i" and (self.regions != ["given"] or self.mask_error or self.text_field):
            raise UserError("--task t2i draws all cells: leave out --regions, --mask-error and --text-field")
        if self.task == "infill" and "found" in self.regions:
            raise UserError("--regions found is for --task editing: only editors find regions themselves")
        if self.batch_size < self.group_size:
            raise UserError(
                f"--batch-size {self.batch_size} is less than a group, --group-size {self.group_size}"
            )
