"""Going on from a checkpoint: which one, and what in it must agree with the run."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from runtime.checkpoint import checkpoint_args, load_checkpoint, manifest_path, require_whole
from runtime.distributed import Distributed, restart_count
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.optim import Optimizers
from runtime.sharding.folder import Like, is_folder
from runtime.texts import write_text
from runtime.training.checkpoints import list_checkpoints, newest_whole_checkpoint
from runtime.training.state import RunState

log = get_logger(__name__)


def resume_point(
    wanted: str | None,
    results_dir: str | Path,
    ranks: Distributed,
    *,
    newest: bool = False,
    saves_nothing: bool = False,
) -> str | None:
    """The checkpoint that a run goes on from, the same on all ranks.

    A run that torchrun has started again goes on by itself from the newest whole checkpoint it has left.

    Args:
      wanted: the one that the flags name; if it is damaged, the newest whole one before it in its folder.
      results_dir: the run's folder.
      newest: the run's newest whole one, if it has any, whatever `wanted` says (`--auto-resume`).
      saves_nothing: a dry run, which may start anywhere.
    Raises:
      UserError: the one wanted is damaged and there is no other; or the run's folder holds checkpoints of
        later steps, which would mix with the run's own.
    """
    found, problem = wanted, None
    restarted = any(ranks.gather_objects(restart_count()))
    if ranks.is_main:
        launch = _Launch(Path(results_dir))
        try:
            newest = newest or restarted and launch.started_run()
            if not (newest or saves_nothing):
                _require_none_later(wanted, Path(results_dir) / "checkpoints")
                launch.note()
            found = _resume_point(wanted, Path(results_dir), newest)
        except UserError as error:
            problem = error
    found, problem = ranks.gather_objects((found, problem))[0]
    if problem is not None:
        raise problem
    return found


class _Launch:
    """The torchrun that has started this process: only a run of its own goes on by itself after a crash."""

    def __init__(self, results_dir: Path) -> None:
        self.file = results_dir / "torchrun.txt"
        run = os.environ.get("TORCHELASTIC_RUN_ID")
        self.name = run and f"{run} {platform.node()} {os.getppid()}"

    def note(self) -> None:
        """Says that the run in this folder is this launch's."""
        if self.name:
            write_text(self.file, self.name)

    def started_run(self) -> bool:
        return self.file.exists() and self.file.read_text() == self.name


def _resume_point(wanted: str | None, results_dir: Path, newest: bool) -> str | None:
    own = newest_whole_checkpoint(results_dir / "checkpoints") if newest else None
    if own is not None:
        log.info("going on from the newest whole checkpoint, %s", own)
        return str(own)
    if wanted is None or not (Path(wanted).is_file() or is_folder(wanted)):
        return wanted  # what it is not, its reader says
    path = Path(wanted)
    try:
        require_whole(path, needs_manifest=True)
    except UserError as problem:
        steps = path in list_checkpoints(path.parent)
        other = newest_whole_checkpoint(path.parent, below=path) if steps else None
        if other is None and (path.is_dir() or manifest_path(path).exists()):
            raise
        if other is None:
            log.warning("%s; it is taken as it is", problem)
            return wanted
        log.warning("%s; going on from %s", problem, other)
        return str(other)
    return wanted


def _require_none_later(wanted: str | None, folder: Path) -> None:
    name = Path(wanted).stem if wanted else "0"
    later = [path for path in list_checkpoints(folder) if name.isdecimal() and int(path.stem) > int(name)]
    if later:
        raise UserError(
            f"{folder} holds {later[-1].name}, and this run would start at step {int(name)}: --auto-resume "
            "goes on from the newest; else give another --results-dir, or move the later ones away"
        )


class ResumeFile:
    """A checkpoint to go on from: it gives what training has made, the flags give every setting.

    What both say must agree.
    """

    def __init__(self, path: str | Path, instead: str, like: Like) -> None:
        """
        Args:
          instead: the way to begin with its weights alone, for errors.
          like: which of its tensors this run has sharded, `RunState.pattern`.
        """
        self.path, self.instead = path, instead
        self.content = load_checkpoint(path, like)

    def require_parts(self, names: Sequence[str]) -> None:
        """
        Raises:
          UserError: it lacks one of them.
        """
        if absent := [name for name in names if name not in self.content]:
            raise UserError(f"{self.path} cannot be resumed, it lacks {', '.join(absent)}; {self.instead}")

    def require_no_loss(self, part: str, own: nn.Module | None, words: str, flag: str) -> None:
        """
        Args:
          own: what the run has for that part of the checkpoint.
          words: the part's name.
          flag: what makes a run have it.
        Raises:
          UserError: the file has that part, and the run has not.
        """
        if own is None and part in self.content:
            raise UserError(
                f"{self.path} holds {words} weights, which would be lost: give {flag} as that run did, or "
                f"{self.instead}"
            )

    def compare_flags(self, config: Any, saved_seed: int, ignore: Sequence[str] = ()) -> None:
        """Compares the flags with those of the run that wrote the file.

        The flags hold; the log names those that have changed. Not so the seed: of the random choices, half
        would follow the file, which holds the place in the data.

        Args:
          config: the flags, as a dataclass.
          saved_seed: of the place in the data.
          ignore: flags that say how to go on and where.
        Raises:
          UserError: another seed.
        """
        if saved_seed != config.global_seed:
            raise UserError(
                f"{self.path} was trained with --global-seed {saved_seed}, and the flags say "
                f"{config.global_seed}: give --global-seed {saved_seed}, or start a new run from its weights"
            )
        saved, now = checkpoint_args(self.content), dataclasses.asdict(config)
        ignored = {"results_dir", "auto_resume", "dry_run", *ignore}
        changed = [
            f"--{name.replace('_', '-')} {saved[name]} → {value}"
            for name, value in now.items()
            if name in saved and name not in ignored and saved[name] != value
        ]
        if changed:
            log.info("from here on other flags hold: %s", ", ".join(changed))

    def restore(self, state: RunState) -> None:
        """Takes the optimizer's moments, the loss scale and the counts; the weights are the caller's.

        Raises:
          UserError: another kind of optimizer.
        """
        self.restore_optimizer(state.optimizers, "optimizer")
        if scale := self.content.get("scaler"):
            state.scaler.load_state_dict(scale)
        elif state.scaler.is_enabled():
            log.warning(
                "%s holds no loss scale: it is sought anew, and the first steps may be skipped", self.path
            )
        state.step = self.content["steps"]
        state.num_skipped = self.content.get("num_skipped", 0)  # older checkpoints lack it

    def restore_optimizer(self, optimizers: Optimizers, part: str) -> None:
        """
        Raises:
          UserError: that part is the state of another kind of optimizer.
        """
        try:
            optimizers.load_state_dict(self.content[part])
        except ValueError as error:
            name = checkpoint_args(self.content).get("optimizer")
            remedy = f"give --optimizer {name} as that run did, or {self.instead}" if name else self.instead
            raise UserError(f"{self.path} was trained with another optimizer: {error}; {remedy}") from error
