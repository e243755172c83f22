"""Console, progress bars and `metrics.jsonl`."""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from runtime.errors import UserError
from runtime.files import writing
from runtime.texts import write_text


class _ThroughTqdm(logging.Handler):
    """Writes log lines above a running progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def get_logger(name: str) -> logging.Logger:
    """The project's logger for `name`; its lines keep progress bars whole."""
    root = logging.getLogger("nep")
    if not root.handlers:
        handler = _ThroughTqdm()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        root.propagate = False
    return root.getChild(name)


@contextmanager
def only_errors(name: str) -> Iterator[None]:
    """Keeps a logger's notices and warnings back for the time of a block."""
    logger = get_logger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def progress(
    iterable: Iterable | None = None, *, total: int | None = None, desc: str, unit: str, **kwargs: Any
) -> tqdm:
    """A progress bar with a rate and an estimate of the end; on a file it prints a line every ten seconds."""
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        iterable, total=total, desc=desc, unit=unit, mininterval=interval, dynamic_ncols=True, **kwargs
    )


class MetricsLog:
    """Appends one JSON object per logged step to `<results_dir>/metrics.jsonl`.

    A number that is not finite, as the gradient's norm of a step that was skipped, is null: JSON has no word
    for it.
    """

    def __init__(self, results_dir: str | Path, enabled: bool = True, resume_step: int = 0) -> None:
        """
        Args:
          results_dir: the run's folder.
          enabled: False on ranks that do not log.
          resume_step: lines past this step, left by a run that went further than its last checkpoint,
            are dropped, so that the file never holds a step twice.
        """
        self._path = Path(results_dir) / "metrics.jsonl" if enabled else None
        if self._path is None:
            return
        lines = []
        if self._path.exists():
            # A power cut may leave bytes that are no text; their line goes, as every torn one.
            text = self._path.read_text(encoding="utf-8", errors="replace")
            lines = [line for line in text.splitlines() if _step_of(line) <= resume_step]
        content = "".join(f"{line}\n" for line in lines)
        write_text(self._path, content)

    def write(self, step: int, **numbers: Any) -> None:
        if self._path is not None:
            line = json.dumps({"step": step, **{k: _finite(v) for k, v in numbers.items()}}, allow_nan=False)
            with writing(self._path), self._path.open("a") as file:
                file.write(f"{line}\n")


class WandbRun:
    """Weights & Biases, when asked for; without a key it logs offline."""

    def __init__(
        self, project: str | None, folder: str | Path, config: dict[str, Any], resume_step: int = 0
    ) -> None:
        """
        Args:
          project: None logs nothing.
          folder: where the run's files go; its `wandb_id.txt` names the run.
          config: shown beside the run.
          resume_step: above 0, the run that the folder names goes on.
        """
        self._run = None
        if project is None:
            return
        try:
            import wandb
        except ImportError as error:
            raise UserError("--wandb-project needs the wandb package: pip install wandb") from error
        mode = None if "WANDB_MODE" in os.environ or wandb.login(prompt=False, verify=False) else "offline"
        note = Path(folder) / "wandb_id.txt"
        name = note.read_text().strip() if resume_step and note.exists() else secrets.token_hex(4)
        write_text(note, name)
        self._wandb = wandb
        self._run = wandb.init(
            project=project, dir=str(folder), config=config, mode=mode, id=name, resume="allow"
        )

    def log(self, step: int, **numbers: float) -> None:
        if self._run is not None:
            self._run.log(numbers, step=step)

    def picture(self, step: int, path: str | Path) -> None:
        if self._run is not None:
            self._run.log({"preview": self._wandb.Image(str(path))}, step=step)

    def finish(self) -> None:
        if self._run is not None:
            self._run.finish()


def _finite(number: Any) -> Any:
    """What JSON can hold of a logged number."""
    return None if isinstance(number, float) and not math.isfinite(number) else number


def _step_of(line: str) -> float:
    """The step of a metrics line; one torn by a crash, or that holds no step, counts as infinitely late."""
    try:
        values = json.loads(line)
    except ValueError:
        return float("inf")
    step = values.get("step") if isinstance(values, dict) else None
    return step if isinstance(step, int | float) else float("inf")
