"""The step checkpoints of a training: when they are written, what is refused, and how many stay."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.checkpoint import manifest_path, require_whole, save_checkpoint, write_pt
from runtime.distributed import ONE_RANK, TIMEOUT, Distributed
from runtime.errors import UserError
from runtime.files import writing
from runtime.logging import get_logger
from runtime.sharding.folder import finish_folder, large_tensors, manifest_lines, outline, replaced
from runtime.sharding.names import STATE, SUFFIX
from runtime.sharding.tensors import is_sharded, own_part, whole_tensor
from runtime.training.parallel import shards

log = get_logger(__name__)


def due(every: int, step: int) -> bool:
    """Whether something that comes every so many steps comes at this one; never where `every` ≤ 0."""
    return every > 0 and step % every == 0


def count_saves(steps: int, every: int, epoch: int = 0) -> int:
    """Checkpoints that a training writes: every so many steps, at the ends of epochs, at the last step.

    Args:
      every: ≤ 0 for never.
      epoch: steps of one; 0: its end is no reason to save.
    """
    periods = [period for period in (every, epoch) if period > 0]
    both = steps // math.lcm(*periods) if len(periods) > 1 else 0
    return sum(steps // period for period in periods) - both + all(steps % period for period in periods)


def checkpoint_kind(checkpoint: str, parallel: str, ranks: Distributed) -> str:
    """What `--checkpoint` asks for: "file", or "dcp", a folder; auto: this where weights are sharded."""
    if checkpoint != "auto":
        return checkpoint
    return "dcp" if shards(parallel, ranks) else "file"


class Checkpoints:
    """The checkpoints `<results_dir>/checkpoints/<step>.pt`, or `.dcp` for folders, of one run.

    Folders are written while training goes on, one at a time; leaving the context waits for the last one.
    """

    def __init__(
        self, results_dir: str, keep: int, ranks: Distributed = ONE_RANK, kind: str = "file"
    ) -> None:
        """
        Args:
          keep: the newest so many; ≤ 0 keeps all.
          kind: "file" or "dcp". All ranks write a folder, so they must see the same disk.
        """
        self.folder, self.keep, self.ranks, self.kind = Path(results_dir) / "checkpoints", keep, ranks, kind
        self._group = None
        if kind == "dcp" and ranks.world_size > 1:
            # Of its own, for CPUs: it is used while training exchanges gradients.
            self._group = torch.distributed.new_group(backend="gloo", timeout=TIMEOUT)
        self._threads = ThreadPoolExecutor(1)
        self._pending: Future | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_) -> None:
        self.wait()

    def save(self, step: int, content: dict[str, Any]) -> Path:
        """Writes the checkpoint of a step and deletes the oldest beyond the limit; all ranks must call it.

        Raises:
          UserError: a weight is NaN or infinity, and all files stay as they were; or the disk is full or
            gone, which of a folder is said when the next one is due.
        """
        self.wait()
        if self.kind == "dcp":
            return self._begin_folder(self.folder / f"{step:07d}{SUFFIX}", content)
        path = self.folder / f"{step:07d}.pt"
        content = replaced(content, self._whole_on_main)
        if self.ranks.is_main:
            require_finite(content, path)
            save_checkpoint(path, content)
            prune_checkpoints(path, self.keep)
            log.info("saved %s", path)
        return path

    def _whole_on_main(self, place: tuple, tensor: Tensor) -> Tensor:
        """All of a sharded tensor, in the main rank's CPU memory; of the others nothing."""
        if not is_sharded(tensor):
            return tensor
        whole = whole_tensor(tensor.detach())
        return whole.cpu() if self.ranks.is_main else whole[:0]

    def wait(self) -> None:
        """Waits until the folder that is being written is whole.

        Raises:
          UserError: it will not be, on all ranks.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _begin_folder(self, path: Path, content: dict[str, Any]) -> Path:
        from runtime.sharding.parts import write_parts  # most of a second

        temporary = path.with_name(f".{path.name}.tmp")

        def prepare() -> None:
            require_finite(content, path)
            if self.ranks.is_main:
                with writing(path):
                    shutil.rmtree(temporary, ignore_errors=True)
                    temporary.mkdir(parents=True)
                    write_pt(outline(content), temporary / STATE)

        _together(prepare, self.ranks.gather_objects)
        parts = write_parts(temporary, large_tensors(content), self._group)
        self._pending = self._threads.submit(self._finish_folder, path, temporary, parts)
        return path

    def _finish_folder(self, path: Path, temporary: Path, parts: Future) -> None:
        """In a thread, on each rank: what has been written gets its manifest and its name, or goes."""
        from runtime.sharding.parts import wait_for

        lines: list[str] = []

        def describe() -> None:
            with writing(path):
                wait_for(parts)
                lines.extend(manifest_lines(temporary, f"__{self.ranks.rank}_*"))

        def settle() -> None:
            if self.ranks.is_main:
                with writing(path):
                    finish_folder(temporary, path, "".join(line for part in all_lines for line in part))
                    prune_checkpoints(path, self.keep)
                log.info("saved %s", path)

        try:
            _together(describe, self._gather)
            all_lines = self._gather(lines)
            _together(settle, self._gather)
        except UserError:
            if self.ranks.is_main:
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _gather(self, value: Any) -> list[Any]:
        """Every rank's value, beside what the training exchanges."""
        if self._group is None:
            return [value]
        values = [None] * self.ranks.world_size
        torch.distributed.all_gather_object(values, value, self._group)
        return values


def _together(work: Callable[[], None], gather: Callable[[Any], list[Any]]) -> None:
    """Does something on each rank; where one fails, all raise its `UserError`."""
    problem = None
    try:
        work()
    except UserError as error:
        problem = error
    for found in gather(problem):
        if found is not None:
            raise found


def require_finite(content: dict[str, Any], path: str | Path) -> None:
    """Refuses to save a training's "model", "ema" or "discriminator" that holds NaN or infinity.

    Raises:
      UserError: names the first such weight.
    """
    for part in ("model", "ema", "discriminator"):
        for name, weight in (content.get(part) or {}).items():
            weight = own_part(weight)
            if weight.is_floating_point() and not weight.isfinite().all():
                raise UserError(
                    f"{path} is not written: the {part}'s {name} holds NaN or infinity. Lower the "
                    "learning rate, and go on from the newest checkpoint"
                )


def list_checkpoints(folder: str | Path) -> list[Path]:
    """The step checkpoints (`0000100.pt`, `0000100.dcp`) in `folder`, oldest first."""
    found = [path for suffix in (".pt", SUFFIX) for path in Path(folder).glob(f"*{suffix}")]
    return sorted((path for path in found if re.fullmatch(r"\d+", path.stem)), key=lambda p: int(p.stem))


def newest_whole_checkpoint(folder: str | Path, below: Path | None = None) -> Path | None:
    """The newest step checkpoint in `folder` that is what its manifest says; warns of those that are not.

    Args:
      below: look only at those before this one.
    """
    for path in reversed(list_checkpoints(folder)):
        if below is not None and int(path.stem) >= int(below.stem):
            continue
        try:
            require_whole(path, needs_manifest=True)
        except UserError as problem:
            log.warning("passed over: %s", problem)
        else:
            return path
    return None


def prune_checkpoints(latest: Path, keep: int) -> None:
    """Deletes the oldest step checkpoints beyond `keep`, and what killed processes left half written.

    Args:
      latest: the one just written; those of later steps are left alone.
      keep: ≤ 0 keeps all.
    """
    folder = latest.parent
    orphans = [path for path in folder.glob("*.pt.sha256") if not path.with_suffix("").exists()]
    for leftover in [*folder.glob(".*.tmp"), *orphans]:
        _delete(leftover)
    if keep > 0:
        others = [path for path in list_checkpoints(folder) if int(path.stem) <= int(latest.stem)]
        others.remove(latest)  # one of the other kind may be of the same step
        for path in others[: max(len(others) - keep + 1, 0)]:
            _delete(path)
            manifest_path(path).unlink(missing_ok=True)


def _delete(path: Path) -> None:
    if path.is_dir():
        # Under another name first: what is half deleted is no checkpoint.
        hidden = path if path.name.startswith(".") else path.rename(path.with_name(f".{path.name}.tmp"))
        shutil.rmtree(hidden, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
