"""Runs the project's own commands in turn, skips what is done, goes on where a training stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import UserError
from runtime.files import path_sha256
from runtime.logging import get_logger
from runtime.texts import write_json

log = get_logger(__name__)
ROOT = Path(__file__).resolve().parents[2]
# For glibc: keep what is freed, rather than have the kernel clear new pages in every training step.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}


@dataclass
class StepRunner:
    """Runs steps, skipping those whose command and inputs have not changed since they were done.

    Attributes:
      root: gets a folder `steps` with a file a step.
      seconds: spent on each step, interrupted tries included.
      commits: of the code that ran the steps, see `current_commit`.
    """

    root: Path
    seconds: dict[str, float] = field(default_factory=dict)
    commits: set[str] = field(default_factory=set)
    _inputs: str = ""

    def run(
        self,
        name: str,
        output: Path,
        command: list[str],
        resume_flag: str | None = None,
        num_ranks: int = 1,
    ) -> None:
        """Runs `python command…` as the step `name`.

        Args:
          output: the folder that the step writes; made anew if its command or an earlier step has changed.
          resume_flag: for trainings, the flag that goes on from a checkpoint.
          num_ranks: processes that share the work, by torchrun; what is done is done for any number of them.
        """
        # Chained: a step also depends on every step before it.
        said = [self._from_anywhere(word) for word in command]
        self._inputs = hashlib.sha256(json.dumps([self._inputs, said]).encode()).hexdigest()
        marker = self.root / "steps" / f"{name}.json"
        state = json.loads(marker.read_text()) if marker.exists() else {}
        same = state.get("inputs") == self._inputs
        number = len(self.seconds) + 1
        if same and state["done"]:
            log.info("step %d, %s: done already (%.0f s)", number, name, state["seconds"])
            self.seconds[name] = state["seconds"]
            self.commits.update(state.get("commits", ["unknown"]))
            return
        if not same and output.exists():
            log.info("step %d, %s: its settings have changed, %s is made anew", number, name, output)
            shutil.rmtree(output)
        spent = state["seconds"] if same else 0.0
        earlier = state.get("commits", ["unknown"]) if same else []
        commits = sorted({current_commit(), *earlier})
        extra: list[str] = []
        if resume_flag and (output / "checkpoints").is_dir():
            # It brings PyTorch, which flags are read without.
            from runtime.training.checkpoints import list_checkpoints

            if found := list_checkpoints(output / "checkpoints"):
                extra = [resume_flag, str(found[-1])]
        if num_ranks > 1:
            torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_ranks}"]
            command = [*torchrun, *command]
        log.info("step %d, %s:\n  python %s", number, name, shlex.join([*command, *extra]))
        self._mark(marker, spent, commits, done=False)
        start = time.monotonic()
        try:
            process = [sys.executable, *command, *extra]
            status = subprocess.run(process, cwd=ROOT, env={**KEEP_MEMORY, **os.environ}).returncode
        finally:
            spent += time.monotonic() - start
            self._mark(marker, spent, commits, done=False)
        if status:
            raise UserError(f"step {name} failed with exit status {status}; its message is above")
        self._mark(marker, spent, commits, done=True)
        self.seconds[name] = spent
        self.commits.update(commits)

    def branch(self, *files: str) -> StepRunner:
        """A runner whose steps depend on those so far and on `files`, not on what is run here from now on.

        Args:
          files: or folders, as checkpoints of sharded trainings are.
        """
        inputs = "".join([self._inputs, *map(path_sha256, files)])
        return StepRunner(self.root, self.seconds, self.commits, inputs)

    def _from_anywhere(self, word: str) -> str:
        """A word of a command without where results and repository lie: moved ones are not made anew."""
        return word.replace(str(self.root), "<results>").replace(str(ROOT), "<repository>")

    def _mark(self, marker: Path, seconds: float, commits: list[str], done: bool) -> None:
        state = {"inputs": self._inputs, "done": done, "seconds": seconds, "commits": commits}
        write_json(marker, state)


def current_commit() -> str:
    """Git's name of the code that runs, with a "+" where tracked files differ from it."""
    name, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return "unknown" if not name else name[:12] + "+" * bool(changed)


def _git(*words: str) -> str:
    """What a git command prints; nothing where there is no git, or no repository."""
    if shutil.which("git") is None:
        return ""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()
