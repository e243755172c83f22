"""The step checkpoints of a training: when they are written, what is refused, and how many stay."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.checkpoint import manifest_path, require_whole, save_checkpoint
from runtime.errors import UserError
from runtime.logging import get_logger

log = get_logger(__name__)


def due(every: int, step: int) -> bool:
    """Whether something that comes every so many steps comes at this one; never where `every` ≤ 0."""
    return every > 0 and step % every == 0


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints `<results_dir>/checkpoints/<step>.pt` of one run."""

    results_dir: str
    keep: int
    """The newest so many; ≤ 0 keeps all."""

    def save(self, step: int, content: dict[str, Any]) -> Path:
        """Writes the checkpoint of a step and deletes the oldest beyond the limit; for the main rank.

        Raises:
          UserError: a weight is NaN or infinity; all files stay as they were.
        """
        path = Path(self.results_dir) / "checkpoints" / f"{step:07d}.pt"
        require_finite(content, path)
        save_checkpoint(path, content)
        prune_checkpoints(path, self.keep)
        return path


def require_finite(content: dict[str, Any], path: str | Path) -> None:
    """Refuses to save a training's "model", "ema" or "discriminator" that holds NaN or infinity.

    Raises:
      UserError: names the first such weight.
    """
    for part in ("model", "ema", "discriminator"):
        for name, weight in (content.get(part) or {}).items():
            if weight.is_floating_point() and not weight.isfinite().all():
                raise UserError(
                    f"{path} is not written: the {part}'s {name} holds NaN or infinity. Lower the "
                    "learning rate, and go on from the newest checkpoint"
                )


def list_checkpoints(folder: str | Path) -> list[Path]:
    """The step checkpoints (`0000100.pt`) in `folder`, oldest first."""
    return sorted(p for p in Path(folder).glob("*.pt") if re.fullmatch(r"\d+", p.stem))


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
        leftover.unlink(missing_ok=True)
    if keep > 0:
        mine = [path for path in list_checkpoints(folder) if int(path.stem) <= int(latest.stem)]
        for path in mine[:-keep]:
            path.unlink()
            manifest_path(path).unlink(missing_ok=True)
