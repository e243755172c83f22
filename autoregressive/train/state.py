"""Everything a run is made of, so that saving and resuming name it in one place."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from autoregressive.adapters.lora import frozen_names, lora_of, require_same_lora, trained_part
from autoregressive.models.arithmetic import marked, require_same_arithmetic, require_same_tables
from autoregressive.models.gpt import Transformer
from autoregressive.models.weights import ADAPTER, model_args, transformer_state
from autoregressive.train.config import TrainConfig
from dataset.data_order import ResumableBatchSampler
from runtime.checkpoint import load_weights
from runtime.devices import loss_scaler
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.optim import build_optimizer
from runtime.training.checkpoints import Checkpoints, checkpoint_kind
from runtime.training.ema import AveragedWeights
from runtime.training.resume import ResumeFile
from runtime.training.state import RunState

log = get_logger(__name__)


@dataclass(eq=False)
class TrainState(RunState):
    """What changes while a model trains."""

    model: Transformer
    sampler: ResumableBatchSampler
    checkpoints: Checkpoints
    num_bad: int = 0
    """Unusable samples met in this epoch, over all ranks."""
    bad_samples: list[str] = field(default_factory=list)
    """What is wrong with them."""


def new_state(
    model: Transformer,
    sampler: ResumableBatchSampler,
    config: TrainConfig,
    ranks: Distributed,
    shown: Transformer | None = None,
) -> TrainState:
    """The state of a run at step 0, or at the step of `--gpt-ckpt`.

    Args:
      model: as it trains, sharded if it will be.
      shown: see `RunState`.
    """
    optimizers = build_optimizer(
        model,
        config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        betas=(config.beta1, config.beta2),
        muon_lr=config.muon_lr,
    )
    ema = None
    if config.ema_decay > 0:
        ema = AveragedWeights(model, config.ema_decay, counts_initial=False)
    scaler = loss_scaler(ranks.device, config.mixed_precision)
    kind = checkpoint_kind(config.checkpoint, config.parallel, ranks)
    checkpoints = Checkpoints(config.results_dir, config.max_checkpoints, ranks, kind)
    state = TrainState(model, optimizers, scaler, ema, sampler, checkpoints, shown=shown)
    if config.gpt_ckpt:
        resume(state, config.gpt_ckpt, config, ranks)
    return state


def checkpoint_content(state: TrainState, config: TrainConfig, ranks: Distributed) -> dict[str, Any]:
    """The published keys first (model, optimizer, steps, args), then what an exact resume needs besides.

    Every rank must call this: the random states of all are gathered.
    """
    rng = {"cpu": torch.get_rng_state()}
    if ranks.device.type == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state()
    content = state.content({**asdict(config), **model_args(config.gpt_model, state.model.config)})
    content |= {
        "sampler": state.sampler.state_dict(),
        "num_bad": state.num_bad,
        "bad_samples": list(state.bad_samples),
        "rng": ranks.gather_objects(rng),
    }
    if state.ema is not None:
        content["ema_updates"] = int(state.ema.n_averaged)
    if (lora := lora_of(state.model)) is not None:
        content[ADAPTER] = asdict(lora)
    return content | {
        part: marked(trained_part(state.model, content[part]), state.model.config)
        for part in ("model", "ema")
        if part in content
    }


def save(state: TrainState, config: TrainConfig, ranks: Distributed) -> None:
    """Writes `checkpoints/<step>.pt`, or `.dcp`, then deletes old ones beyond the limit."""
    state.checkpoints.save(state.step, checkpoint_content(state, config, ranks))
    ranks.barrier()


def resume(state: TrainState, path: str, config: TrainConfig, ranks: Distributed) -> None:
    """Goes on from a checkpoint as if the run had never stopped.

    The file gives what training has made, the flags give every setting; what both say must agree.

    Raises:
      UserError: weights only, another model, adapter, seed, kind of optimizer, size of the data or of a
        batch, or averaged weights in one of them only.
    """
    file = ResumeFile(path, "start a new run from its weights with --init-gpt-ckpt", state.pattern())
    content = file.content
    file.require_parts(("optimizer", "sampler", "rng", "steps"))
    require_same_lora(content.get(ADAPTER), state.model, path)
    begins = ("gpt_ckpt", "init_gpt_ckpt", "codebook_init")
    file.compare_flags(config, content["sampler"]["seed"], ignore=begins)
    file.require_no_loss("ema", state.ema, "averaged", "--ema-decay")
    if state.ema is not None and "ema" not in content:
        raise UserError(f"{path} holds no averaged weights; leave out --ema-decay or start a new run")
    check = partial(require_same_arithmetic, state.model.config, content, path)
    weights = transformer_state({"model": content["model"]})
    frozen = frozen_names(state.model)
    if not frozen:
        require_same_tables(state.model.config, weights, path)
    load_weights(state.model, weights, path, frozen, check=check)
    file.restore(state)
    if state.ema is not None:
        load_weights(state.ema.module, transformer_state({"model": content["ema"]}), path, frozen)
        state.ema.n_averaged.fill_(content["ema_updates"])
    state.sampler.load_state_dict(content["sampler"], path)
    state.num_bad = content["num_bad"]
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
