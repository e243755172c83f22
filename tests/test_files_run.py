"""Of how many files an edit and a training step run code; docs/architecture.md names them, and the numbers.

`pytest -s tests/test_files_run.py` lists them, with their functions.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autoregressive import EditingPipeline
from autoregressive.train.config import EditingConfig
from autoregressive.train.loop import Stepping
from autoregressive.train.stages import train_editing
from runtime.config import parse
from runtime.distributed import ONE_RANK

ROOT = Path(__file__).resolve().parent.parent
DOC = ROOT / "docs" / "architecture.md"
# Not the environment's, which may stand in the checkout.
OURS = [path.relative_to(ROOT) for path in ROOT.glob("[!.]*/**/*.py") if path.parts[-2] != "tests"]


def files_run(call: Callable[[], Any]) -> dict[str, list[str]]:
    """{file: functions} of the project that run in this thread during `call`, in order of first use.

    What `@dataclass` generates is in no file.
    """
    ours = {str(ROOT / path): str(path) for path in OURS}
    found: dict[str, dict[str, None]] = {}

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and (file := ours.get(frame.f_code.co_filename)):
            found.setdefault(file, {}).setdefault(frame.f_code.co_name, None)

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return {file: list(functions) for file, functions in found.items()}


def walk(heading: str) -> tuple[int, list[str]]:
    """What a section of architecture.md says to open, and the files that its numbered steps link."""
    text = DOC.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (most,) = re.findall(r"^(\d+) files to open", text, re.MULTILINE)
    steps = "".join(re.findall(r"^\d+\. .*\n(?: {3}.*\n)*", text, re.MULTILINE))
    files = dict.fromkeys(re.findall(r"\]\(\.\./([^)#]+\.py)\)", steps))
    return int(most), list(files)


def check(title: str, files: dict[str, list[str]]) -> str:
    """Prints the files; all must be named in architecture.md, and be as many as it says.

    Returns:
      What its table names.
    """
    print(f"\n{title}: {len(files)} files")
    for file, functions in files.items():
        print(f"  {file}: {', '.join(functions)}")
    text = " ".join(DOC.read_text().split())
    ((number, row),) = re.findall(rf"\| {title}: (\d+) files \|([^|]*)\|", text)
    assert len(files) == int(number), f"{len(files)} files, architecture.md says {number}"
    assert [file for file in files if not re.search(rf"\b{Path(file).name}\b", text)] == []
    return row


@pytest.mark.parametrize(
    ("heading", "limit", "num_steps"), [("One edit", 15, 8), ("One training step", 25, 5)]
)
def test_few_files_are_to_be_opened(heading, limit, num_steps):
    most, files = walk(heading)
    section = DOC.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    assert re.findall(r"^(\d+)\. ", section, re.MULTILINE) == [str(i + 1) for i in range(num_steps)]
    assert len(files) == most <= limit
    assert [file for file in files if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize(("title", "mask"), [("an edit", "box"), ("an edit that finds its mask", "auto")])
def test_an_edit_runs_code_of_few_files(title, mask, gpt_ckpts, vq_ckpt, t5_dir):
    pipeline = EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir)
    image, box = Image.new("RGB", (40, 30), (190, 190, 190)), np.zeros((30, 40), bool)
    box[10:20, 10:20] = True
    files = files_run(lambda: pipeline.edit(image, "a red star", box if mask == "box" else mask))
    if not torch.backends.mkldnn.is_available():  # nothing is packed
        files["autoregressive/decoding/packed_linear.py"] = []
    row = check(title, files)
    _, opened = walk("One edit")
    assert set(opened) <= files.keys(), "architecture.md has files opened that an edit does not run"
    if mask == "box":
        beside = {Path(file).name for file in files.keys() - set(opened)}
        assert set(re.findall(r"`(\w+\.py)`", row)) == beside


@pytest.mark.parametrize(
    ("title", "workers"), [("a step", 1), ("a step with what the loader's processes do", 0)]
)
def test_a_training_step_runs_code_of_few_files(title, workers, shapes, train_flags, tmp_path, monkeypatch):
    """The third step, at which nothing is logged, saved, drawn or validated."""
    files, take_step = {}, Stepping.take_step

    def traced(stepping: Stepping, *words: Any) -> None:
        if stepping.state.step == 2:
            files.update(files_run(lambda: take_step(stepping, *words)))
        else:
            take_step(stepping, *words)

    monkeypatch.setattr(Stepping, "take_step", traced)
    flags = [*train_flags, "--data-path", str(shapes / "train" / "editing.jsonl"), "--mask_in_context"]
    flags += ["--num-workers", str(workers), "--log-every", "100", "--max-steps", "4"]
    torch.manual_seed(0)
    train_editing(parse(EditingConfig, [*flags, "--results-dir", str(tmp_path)]), ONE_RANK)
    check(title, files)
