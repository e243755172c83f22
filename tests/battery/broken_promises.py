"""Breaks each promise by one line in a scratch copy, and requires that a case of the battery notices.

python -m tests.battery.broken_promises     # prints the table of RELIABILITY.md
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import UserError, run_command
from runtime.logging import progress
from tests.battery.runner import TESTS
from tests.battery.training import ROOT


@dataclass(frozen=True)
class Break:
    """A line that keeps a promise, what it is changed to, and the name of a case that must fail then.

    Where chance decides, `case` is the end of several names, of which one must fail.
    """

    promise: int
    file: str
    old: str
    new: str
    test: int | str
    """Of the battery, or a file of tests."""
    case: str

    def command(self, results: Path) -> tuple[list[str], str]:
        """What python runs the cases with, and what stands in its output if one of them fails."""
        if isinstance(self.test, str):
            return ["-m", "pytest", "-q", f"{self.test}::{self.case}"], f"FAILED {self.test}"
        words = ["-m", "tests.battery", "--only", self.test, "--case", *self.chosen()]
        words += ["--results-dir", results, "--fresh", "--num-workers", 1]
        return [str(word) for word in words], f"FAILED test {self.test}"

    def chosen(self) -> list[int]:
        """The battery's cases that are meant."""
        names = [case.name for case in TESTS[self.test - 1][1].cases()]
        return [index for index, name in enumerate(names) if name.endswith(self.case)]


BREAKS = (
    Break(
        1, "autoregressive/train/state.py", "    torch.set_rng_state(saved[ranks.rank]", "    len(saved[ranks.rank]",
        1, "t2i, mid-epoch, 0 workers, 1 ranks",
    ),
    Break(
        1, "dataset/data_order.py", 'state["epoch"], state["consumed"]', 'state["epoch"], 0',
        1, "t2i, mid-epoch, 0 workers, 1 ranks",
    ),
    Break(2, "runtime/checkpoint.py", "    if found not in wanted:", "    if not wanted:", 4, "bit flip 0"),
    Break(
        2, "runtime/checkpoint.py", "    write_atomic(path, write_both)\n", "    write_both(path)\n",
        2, "one in the place of another",
    ),
    Break(
        2, "runtime/sharding/folder.py", "file_sha256(folder / name)) != digest:", "file_sha256(folder / name)) != found:",
        "tests/runtime/test_checkpoint_folder.py", "test_a_damaged_folder_is_noticed_and_named",
    ),
    Break(
        3, "autoregressive/train/loop.py", "        if saves or stopped:\n", "        if saves:\n",
        3, "step, to agent, 1 time(s)",
    ),
    Break(
        3, "runtime/stopping.py", "raise SystemExit(self.exit_status())", "raise SystemExit(0)",
        3, "step, to 1, 1 time(s)",
    ),
    Break(
        3, "runtime/distributed.py", 'if "TORCHELASTIC_RUN_ID" in os.environ:', 'if "TORCHELASTIC_RUN_ID" in "":',
        "tests/runtime/test_distributed.py", "test_a_rank_ends_with_its_torchrun_and_another_process_lives_on",
    ),
    Break(
        3, "runtime/training/resume.py", "newest or restarted and launch.started_run()", "newest",
        9, "sigkill of rank 0 at step 5",
    ),
    Break(
        4, "autoregressive/train/steps.py", "skip=~torch.isfinite(norm)", "skip=norm < 0",
        5, "nan in gradient, rank 0, none",
    ),
    Break(
        4, "autoregressive/train/inputs.py", "text = torch.where(self.spoiled[:, None, None], torch.nan, text)", "pass",
        5, "nan in pixels, rank 1, none",
    ),
    Break(
        5, "autoregressive/train/steps.py", "        state.bad_samples += [", "        list() + [",
        7, "image: empty",
    ),
    Break(
        6, "runtime/checkpoint.py", "weights_only=True, mmap=is_zip", "weights_only=False, mmap=is_zip",
        6, "os.system",
    ),
    Break(6, "runtime/checkpoint.py", "    if unpacked > path.stat().st_size:", "    if not unpacked:", 6, "zip bomb"),
    Break(7, "dataset/records/jsonl.py", "        if not inside:", "        if not path:", 8, "image, .."),
    Break(
        7, "dataset/records/images.py", "image.width * image.height > max_pixels", "image.width > max_pixels",
        7, "source: PNG bomb, 66 megapixels",
    ),
    Break(
        8, "runtime/files.py", "    except OSError as error:", "    except EOFError as error:",
        10, "full while a checkpoint is written",
    ),
    Break(
        9, "scripts/web_demo/serve.py", "server_name=config.host", 'server_name="0.0.0.0"',
        "tests/scripts/test_demo.py", "test_only_this_machine_gets_in",
    ),
    Break(
        9, "scripts/web_demo/serve.py", 'max_file_size=f"{config.max_upload_mb}mb"', "max_file_size=None",
        "tests/scripts/test_demo.py", "test_large_uploads_are_refused",
    ),
    Break(
        10, "autoregressive/models/arithmetic.py",
        '    if differing := _differing(arithmetic, _arithmetic(config), "here"):',
        '    if not (differing := _differing(arithmetic, _arithmetic(config), "here")) and not trained:',
        "tests/autoregressive/models/test_arithmetic.py", "test_other_arithmetic_is_refused_by_name",
    ),
    Break(
        10, "autoregressive/decoding/engine.py",
        "memory, self._idle = self._idle or _Memory(), None", "memory = self._idle = self._idle or _Memory()",
        "tests/autoregressive/decoding/test_threads.py", "test_a_callback_that_edits_disturbs_no_one",
    ),
    Break(
        4, "runtime/training/checkpoints.py", "not weight.isfinite().all():", "not weight.numel():",
        14, "t2i whose model ends as nan",
    ),
    Break(
        6, "language/t5.py", 'content.get("auto_map"):', 'content.get("own_code"):',
        14, "code in a text encoder's folder: tokenizer",
    ),
    Break(
        10, "runtime/flags/ranges.py", "            if number not in self:", "            if number is self:",
        13, "stage 1: --lr inf",
    ),
    Break(
        10, "runtime/flags/settings_file.py", "Loader=yaml.BaseLoader)", "Loader=yaml.SafeLoader)",
        13, "config file: off is a word",
    ),
    Break(
        10, "runtime/training/resume.py", "    if saved_seed != config.global_seed:", "    if saved_seed < 0:",
        13, "resume: another seed",
    ),
    Break(
        10, "autoregressive/models/arithmetic.py", "    if note is None:", "    if note is not None:",
        14, "a file without settings, of another query_turn",
    ),
    Break(
        10, "runtime/containers.py", '_WRAPPERS = ("module", "_orig_mod", ', '_WRAPPERS = ("module", ',
        14, "transformer: compiled and distributed",
    ),
    Break(
        10, "dataset/records/masks.py", "    if inside and not 0 < highest < end / _FAR_BELOW:", "    if inside:",
        15, "mask file: 0 and 1",
    ),
    Break(
        10, "dataset/packed/dataset.py", "if not inside and buffer.size:", "if not inside and not buffer.size:",
        15, "packed: zstd",
    ),
    Break(
        10, "language/caption_cleaning.py", "    if not clean_caption(text):", "    if not text:",
        15, "--list: a text of no words",
    ),
    Break(
        10, "runtime/files.py", "for path in paths if not is_mac_metadata(path))", "for path in paths if path.name)",
        15, "a Mac's companions: pictures",
    ),
    Break(
        10, "runtime/files.py", "    if kind == stat.S_IFREG:", "    if kind != stat.S_IFSOCK:",
        16, "a pipe: --list",
    ),
    Break(
        10, "runtime/pictures.py", "image.save(temporary, format=name, ", 'image.save(temporary, format="PNG", ',
        17, "saved as .jpg",
    ),
    Break(
        10, "autoregressive/editing/session.py", "        if image is not self.image:", "        if image is None:",
        17, "a proposal made for another image",
    ),
    Break(
        10, "autoregressive/decoding/engine.py",
        "memory, self._idle = self._idle or _Memory(), None", "memory = self._idle = self._idle or _Memory()",
        17, "a callback that edits",
    ),
)  # fmt: skip


def copy_project(to: Path) -> None:
    """The files that git knows of, as they are now."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, tracked.stdout.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)


def all_pass(copy: Path, broken: Break, results: Path) -> bool:
    """Runs the cases with the code in `copy`."""
    command, sign = broken.command(results)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=copy,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(copy), "REQUIRE_BROWSER": "1"},
    )
    if done.returncode and sign not in done.stdout + done.stderr:
        raise UserError(f"the case itself could not run:\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def is_noticed(broken: Break, scratch: Path) -> bool:
    """Whether the case fails with the promise broken; raises UserError if it fails with the promise kept."""
    copy, results = scratch / "copy", scratch / "results"
    shutil.rmtree(copy, ignore_errors=True)
    copy_project(copy)
    file = copy / broken.file
    text = file.read_text()
    if text.count(broken.old) != 1:
        raise UserError(
            f"{broken.file}: {broken.old!r} stands there {text.count(broken.old)} times, not once"
        )
    if not all_pass(copy, broken, results):
        raise UserError(f"test {broken.test}, {broken.case}: fails without a promise broken")
    file.write_text(text.replace(broken.old, broken.new))
    return not all_pass(copy, broken, results)


def main() -> None:
    rows, missed = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        for broken in progress(BREAKS, desc="breaking", unit="promise"):
            noticed = is_noticed(broken, Path(scratch))
            missed += not noticed
            old, new = (" ".join(line.split()) for line in (broken.old, broken.new))
            rows.append(
                f"| {broken.promise} | `{broken.file}`: `{old}` → `{new}` | {broken.test}: {broken.case} | "
                f"{'noticed' if noticed else 'MISSED'} |"
            )
    print("| promise | change | case | |\n|---|---|---|---|", *rows, sep="\n")
    if missed:
        raise UserError(f"{missed} of {len(BREAKS)} changes went unnoticed")


if __name__ == "__main__":
    run_command(main)
