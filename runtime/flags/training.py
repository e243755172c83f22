"""Flags that the trainings of transformers and tokenizers share, each declared once; see `shared`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.config import legacy, option
from runtime.errors import UserError
from runtime.flags.ranges import (
    COUNT,
    COUNT_OR_NEVER,
    COUNT_OR_NONE,
    LEARNING_RATE,
    PERIOD,
    POSITIVE,
    RATE,
    SCALE,
    SEED,
    SHARE,
    WEIGHT,
)

# Length and batches


def epochs(default: int | None, what: str) -> Any:
    """`--epochs`."""
    return option(default, within=COUNT, help=what)


def max_steps() -> Any:
    """`--max-steps`."""
    words = "stop after this many steps; -1 for never"
    return option(None, within=COUNT_OR_NEVER, help=words, aliases=["early_stop"])


def global_batch_size(default: int, of: str) -> Any:
    """`--global-batch-size`."""
    return option(default, within=COUNT, help=f"{of} a step, over all ranks")


def gradient_accumulation_steps() -> Any:
    """`--gradient-accumulation-steps`."""
    return option(1, within=COUNT, help="forward passes a step")


def global_seed(of: str) -> Any:
    """`--global-seed`."""
    return option(0, within=SEED, help=of)


def no_global_seed() -> Any:
    """`--global-seed`, published, of programs that draw nothing at random."""
    return legacy("nothing is random here")


def num_ranks(more: str = "", default: int | None = 1) -> Any:
    """`--num-ranks` of a program that starts trainings."""
    return option(default, within=COUNT, help=f"processes that share a training{more}")


def steps_scale(of: str) -> Any:
    """`--steps-scale` of a program that starts trainings."""
    return option(1.0, within=SCALE, help=f"multiplies the steps of {of}")


# What the transformer starts from and learns


def init_gpt_ckpt(what: str, default: Any = None) -> Any:
    """`--init-gpt-ckpt`."""
    return option(default, help=what)


def own_cell() -> Any:
    """`--own-cell`."""
    words = "each slot is told its own cell by a learned table too: helps in random orders"
    return option(False, help=words)


def lora_rank() -> Any:
    """`--lora-rank`."""
    words = "train layers of this rank beside the blocks' matrices, and nothing else (LoRA); 0: the weights"
    return option(0, within=COUNT_OR_NONE, help=words)


def lora_alpha() -> Any:
    """`--lora-alpha`."""
    words = "LoRA: what they compute counts alpha / rank times (default: the rank)"
    return option(None, within=POSITIVE, help=words)


def lora_dora() -> Any:
    """`--lora-dora`."""
    return option(False, help="LoRA: the lengths of the sums' rows train too (DoRA)")


def lora_train_tables() -> Any:
    """`--lora-train-tables`."""
    return option(False, help="LoRA: positions, own cells and edit/keep marks train too")


def lora_targets(choices: Sequence[str]) -> Any:
    """`--lora-targets`."""
    return option(None, choices=choices, help="LoRA: matrices of a block with such layers (default: all)")


def require_lora(config: Any) -> None:
    """
    Raises:
      UserError: flags of LoRA that do not go together.
    """
    if config.lora_rank == 0:
        for name in ("lora_alpha", "lora_dora", "lora_train_tables", "lora_targets"):
            if getattr(config, name):
                raise UserError(f"--{name.replace('_', '-')} goes with --lora-rank, which is 0: give a rank")
    elif config.init_gpt_ckpt is None:
        raise UserError(
            f"--lora-rank {config.lora_rank}: an adapter needs the weights that it is added to; give "
            "--init-gpt-ckpt"
        )


def region_share(default: float) -> Any:
    """`--region-share` of stage 1."""
    words = "share of stage 1's samples drawn as zero-shot edits: a rectangle comes last"
    return option(default, within=SHARE, help=words)


def region_orders(default: Sequence[str], choices: Sequence[str]) -> Any:
    """`--region-orders` of stage 1."""
    words = "orders of that rectangle, one a sample; one named twice comes twice as often"
    return option(list(default), choices=choices, help=words)


def edit_orders(default: Sequence[str], choices: Sequence[str]) -> Any:
    """`--edit-orders` of stage 2."""
    words = "orders of the edited cells, one a sample; one named twice comes twice as often"
    return option(list(default), choices=choices, help=words)


# Optimizer and schedule


def optimizer(choices: Sequence[str]) -> Any:
    """`--optimizer`."""
    words = "muon: Muon on the matrices, AdamW on the rest"
    if "adamw8bit" in choices:
        words += "; adamw8bit: AdamW that keeps 2 bytes a parameter in the place of 8"
    return option("adamw", help=words, choices=choices)


def require_optimizer(name: str, mixed_precision: str) -> None:
    """
    Raises:
      UserError: each of two optimizers would find its own infinities, and one step where the other skips.
    """
    if name == "muon" and mixed_precision == "fp16":
        raise UserError("--optimizer muon does not go with fp16 loss scaling; use --mixed-precision bf16")


def lr(of: str = "AdamW", default: float = 1e-4) -> Any:
    """`--lr`; `of` says which optimizers have it."""
    return option(default, within=LEARNING_RATE, help=f"peak learning rate ({of})")


def muon_lr() -> Any:
    """`--muon-lr`."""
    return option(0.02, within=LEARNING_RATE, help="peak learning rate of Muon's matrices")


def weight_decay() -> Any:
    """`--weight-decay`."""
    return option(0.05, within=WEIGHT, help="of parameters with two or more dimensions")


def beta1() -> Any:
    """`--beta1`."""
    return option(0.9, within=RATE, help="AdamW's first decay")


def beta2() -> Any:
    """`--beta2`."""
    return option(0.95, within=RATE, help="AdamW's second decay")


def max_grad_norm() -> Any:
    """`--max-grad-norm`."""
    return option(1.0, within=WEIGHT, help="gradient clipping; 0 for none")


def warmup_steps() -> Any:
    """`--warmup-steps`."""
    return option(0, within=COUNT_OR_NONE, help="linear warm-up, for constant and cosine")


def dropout_p(default: float, what: str) -> Any:
    """`--dropout-p`."""
    return option(default, within=RATE, help=what)


def mixed_precision(default: str = "bf16") -> Any:
    """`--mixed-precision`."""
    return option(default, help="autocast type", choices=["none", "bf16", "fp16"])


def ema_decay(default: float, what: str) -> Any:
    """`--ema-decay`."""
    return option(default, within=RATE, help=what)


# Ranks


def parallel() -> Any:
    """`--parallel`."""
    words = "weights, gradients and optimizer on every rank: whole (ddp), in parts over all ranks (fsdp), or "
    words += "in parts over groups of ranks that hold the same (hsdp)"
    return option("ddp", help=words, choices=["ddp", "fsdp", "hsdp"])


def shard_size() -> Any:
    """`--shard-size`."""
    words = "hsdp: ranks that share one copy of the weights (default: those of a machine)"
    return option(None, within=COUNT, help=words)


# Logs and checkpoints


def checkpoint() -> Any:
    """`--checkpoint`."""
    words = "one file, or a folder that all ranks write while training goes on (dcp); auto: dcp where "
    words += "--parallel shards"
    return option("auto", help=words, choices=["auto", "file", "dcp"])


def require_parallel(parallel: str, shard_size: int | None) -> None:
    """
    Raises:
      UserError: these two flags do not go together.
    """
    if shard_size is not None and parallel != "hsdp":
        raise UserError(f"--shard-size goes with --parallel hsdp, not {parallel}")


def auto_resume() -> Any:
    """`--auto-resume`."""
    words = "go on from the newest whole checkpoint in --results-dir, if there is one"
    return option(False, help=words)


def log_every(default: int = 100) -> Any:
    """`--log-every`."""
    return option(default, within=COUNT, help="steps between log lines")


def ckpt_every(what: str, default: int = 5000) -> Any:
    """`--ckpt-every`."""
    words = f"steps between {what}; 0 or -1 for the last step alone"
    return option(default, within=PERIOD, help=words)


def max_checkpoints(default: int) -> Any:
    """`--max-checkpoints`."""
    words = "keep this many of the newest checkpoints; 0 for all"
    return option(default, within=COUNT_OR_NONE, help=words)


def preview_every() -> Any:
    """`--preview-every`."""
    return option(0, within=PERIOD, help="steps between preview pictures; 0 or -1 for none")


def wandb_project() -> Any:
    """`--wandb-project`."""
    return option(None, help="log to this Weights & Biases project (offline without a key)")


def dry_run(then: str = "print model size, memory, steps, speed and disk, draw the first batch") -> Any:
    """`--dry-run`."""
    return option(False, help=f"train nothing: {then}")


def gpu(default: str, what: str) -> Any:
    """`--gpu` of a program that computes hours."""
    return option(default, help=f"whose half-precision peak counts{what}")


def peak_tflops(what: str) -> Any:
    """`--peak-tflops`, of one device."""
    return option(None, within=POSITIVE, help=f"10^12 operations a second that the device can do, {what}")


_WHERE = "checkpoints always go to --results-dir"


def cloud_save_path() -> Any:
    """`--cloud-save-path`, published."""
    return legacy(_WHERE)


def no_local_save() -> Any:
    """`--no-local-save`, published."""
    return legacy(_WHERE, takes_value=False)
