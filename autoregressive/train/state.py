"""Everything a run is made of, so that saving and resuming name it in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from autoregressive.models.arithmetic import marked, require_same_arithmetic, require_same_tables
from autoregressive.models.gpt import Transformer
from autoregressive.models.weights import model_args, transformer_state
from autoregressive.train.config import TrainConfig
from dataset.sampler import ResumableBatchSampler
from runtime.checkpoint import (
    compare_with_flags,
    load_checkpoint,
    load_weights,
    prune_checkpoints,
    require_finite,
    save_checkpoint,
)
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.optim import Optimizers, build_optimizer

log = get_logger(__name__)


@dataclass
class TrainState:
    """What changes while a model trains."""

    model: Transformer
    optimizers: Optimizers
    scaler: torch.amp.GradScaler
    ema: AveragedModel | None
    sampler: ResumableBatchSampler
    step: int = 0
    num_bad: int = 0
    """Unusable samples met in this epoch, over all ranks."""
    bad_samples: list[str] = field(default_factory=list)
    """What is wrong with them."""
    num_skipped: int = 0
    """Steps without an update because their gradient was not finite."""


def new_state(
    model: Transformer, sampler: ResumableBatchSampler, config: TrainConfig, ranks: Distributed
) -> TrainState:
    """The state of a run at step 0, or at the step of `--gpt-ckpt`."""
    optimizers = build_optimizer(
        model,
        config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        betas=(config.beta1, config.beta2),
        muon_lr=config.muon_lr,
    )
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=config.mixed_precision == "fp16")
    ema = None
    if config.ema_decay > 0:
        ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    state = TrainState(model, optimizers, scaler, ema, sampler)
    if config.gpt_ckpt:
        resume(state, config.gpt_ckpt, config, ranks)
    return state


@torch.no_grad()
def average_weights(ema: AveragedModel, model: Transformer) -> None:
    """`AveragedModel.update_parameters`, which would wait for the device to hand its counter over."""
    averages, weights = list(ema.module.parameters()), list(model.parameters())
    if ema.n_averaged == 0:
        torch._foreach_copy_(averages, weights)
    else:
        ema.multi_avg_fn(averages, weights, ema.n_averaged)
    ema.n_averaged += 1


@contextmanager
def averaged_weights(state: TrainState) -> Iterator[None]:
    """Puts the averaged weights, if the run keeps them, into the model for a while."""
    pairs = (
        []
        if state.ema is None
        else list(zip(state.model.parameters(), state.ema.module.parameters(), strict=True))
    )

    def swap() -> None:
        for weight, average in pairs:
            weight.data, average.data = average.data, weight.data

    swap()
    try:
        yield
    finally:
        swap()


def checkpoint_content(state: TrainState, config: TrainConfig, ranks: Distributed) -> dict[str, Any]:
    """The published keys first (model, optimizer, steps, args), then what an exact resume needs besides.

    Every rank must call this: the random states of all are gathered.
    """
    rng = {"cpu": torch.get_rng_state()}
    if ranks.device.type == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state()
    content = {
        "model": marked(state.model.state_dict(), state.model.config),
        "optimizer": state.optimizers.state_dict(),
        "steps": state.step,
        "args": {**asdict(config), **model_args(config.gpt_model, state.model.config)},
        "scaler": state.scaler.state_dict(),
        "sampler": state.sampler.state_dict(),
        "num_bad": state.num_bad,
        "bad_samples": list(state.bad_samples),
        "num_skipped": state.num_skipped,
        "rng": ranks.gather_objects(rng),
    }
    if state.ema is not None:
        content["ema"] = marked(state.ema.module.state_dict(), state.model.config)
        content["ema_updates"] = int(state.ema.n_averaged)
    return content


def save(state: TrainState, config: TrainConfig, ranks: Distributed) -> None:
    """Writes `checkpoints/<step>.pt` on the main rank, then deletes old ones beyond the limit."""
    content = checkpoint_content(state, config, ranks)
    if ranks.is_main:
        path = Path(config.results_dir) / "checkpoints" / f"{state.step:07d}.pt"
        require_finite(content, path)
        save_checkpoint(path, content)
        prune_checkpoints(path, config.max_checkpoints)
        log.info("saved %s", path)
    ranks.barrier()


def resume(state: TrainState, path: str, config: TrainConfig, ranks: Distributed) -> None:
    """Goes on from a checkpoint as if the run had never stopped.

    The file gives what training has made, the flags give every setting; what both say must agree.

    Raises:
      UserError: weights only, another model, seed, kind of optimizer, size of the data or of a batch, or
        averaged weights in one of them only.
    """
    content = load_checkpoint(path)
    absent = [k for k in ("optimizer", "sampler", "rng", "steps") if k not in content]
    if absent:
        raise UserError(
            f"{path} lacks {', '.join(absent)}, which going on exactly needs; "
            "start a new run from its weights with --init-gpt-ckpt"
        )
    begins = ("gpt_ckpt", "init_gpt_ckpt", "codebook_init")
    compare_with_flags(content, path, config, content["sampler"]["seed"], ignore=begins)
    check = partial(require_same_arithmetic, state.model.config, content, path)
    weights = transformer_state({"model": content["model"]})
    require_same_tables(state.model.config, weights, path)
    load_weights(state.model, weights, path, check=check)
    try:
        state.optimizers.load_state_dict(content["optimizer"])
    except ValueError as error:
        raise UserError(f"{path} was trained with another optimizer: {error}") from error
    if state.ema is None and "ema" in content:
        raise UserError(
            f"{path} holds averaged weights, which would be lost: give --ema-decay as that run did, or "
            "start a new run from it with --init-gpt-ckpt"
        )
    if state.ema is not None:
        if "ema" not in content:
            raise UserError(f"{path} holds no averaged weights; leave out --ema-decay or start a new run")
        load_weights(state.ema.module, transformer_state({"model": content["ema"]}), source=path)
        state.ema.n_averaged.fill_(content["ema_updates"])
    if state.scaler.is_enabled() and not content["scaler"]:
        log.warning("%s was saved without fp16: its loss scale is sought anew", path)
    else:
        state.scaler.load_state_dict(content["scaler"])
    state.sampler.load_state_dict(content["sampler"])
    state.step, state.num_bad, state.num_skipped = (content[k] for k in ("steps", "num_bad", "num_skipped"))
    state.bad_samples = list(content.get("bad_samples", []))  # older checkpoints name none
    _restore_rng(content["rng"], path, ranks)
    log.info("going on from %s at step %d", path, state.step)


def _restore_rng(saved: list[dict[str, torch.Tensor]], path: str, ranks: Distributed) -> None:
    if len(saved) != ranks.world_size:
        log.warning(
            "%s was saved by %d rank(s), now there are %d: the data order stays, dropout masks will differ",
            path,
            len(saved),
            ranks.world_size,
        )
        return
    torch.set_rng_state(saved[ranks.rank]["cpu"])
    if "cuda" in saved[ranks.rank] and ranks.device.type == "cuda":
        torch.cuda.set_rng_state(saved[ranks.rank]["cuda"])
