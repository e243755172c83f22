"""`--help` and a wrong flag are answered at once: programs read their flags before the slow libraries."""

from __future__ import annotations

import json
import os
import re
import sys

import pytest
from conftest import ROOT, run_within

HEAVY = (
    "torch", "torchvision", "transformers", "pyarrow", "matplotlib", "open_clip", "timm", "gradio",
    "fastapi", "uvicorn",
)  # fmt: skip

# Runs each program named after the words, and says how it ended and what was imported by then.
RUNNER = """
import contextlib, io, json, runpy, sys
heavy, words, *programs = map(json.loads, sys.argv[1:])
ends = {}
for program in programs:
    sys.argv = [program, *words]
    said, before = io.StringIO(), set(sys.modules)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            runpy.run_path(program, run_name="__main__")
        status = None
    except SystemExit as end:
        status = end.code
    imported = [name for name in heavy if name in sys.modules and name not in before]
    ends[program] = status, said.getvalue(), imported
print(json.dumps(ends))
"""


PROGRAMS = sorted(
    str(path.relative_to(ROOT))
    for folder in (
        "autoregressive",
        "dataset",
        "evaluations",
        "integrations",
        "language",
        "nep",
        "scripts",
        "tokenizer",
    )
    for path in (ROOT / folder).rglob("*.py")
    if re.search(r"\bparse\(", source := path.read_text()) and '__name__ == "__main__"' in source
)


def run_all(*words: str) -> dict[str, list]:
    """How each program ends with these words: status, output, slow libraries."""
    command = [sys.executable, "-c", RUNNER, *map(json.dumps, (HEAVY, words, *PROGRAMS))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = run_within(120, command, cwd=ROOT, env=environment)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_programs_are_found():
    assert {"autoregressive/train/train_t2i.py", "dataset/prepare_coco.py"} <= set(PROGRAMS)
    assert {"autoregressive/sample/sample_editing.py", "scripts/score_drawings.py"} <= set(PROGRAMS)


@pytest.mark.parametrize(
    "words, status, said", [(["--help"], 0, "usage: "), (["--no-such-flag"], 2, "error: ")]
)
def test_flags_are_read_before_slow_libraries_are_imported(words, status, said):
    for program, (ended, output, imported) in run_all(*words).items():
        assert ended == status and said in output, f"{program}: {ended}, {output}"
        assert imported == [], f"{program} imports {', '.join(imported)}"
