"""Which files of the project have code that a call runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def files_run(call: Callable[[], Any]) -> dict[str, list[str]]:
    """Runs `call` and returns {file: functions}, in the order in which they ran first, of this thread.

    Functions only: class bodies and imports are not what an edit or a step does. Generated ones (those that
    `dataclass` writes) are in no file.
    """
    found: dict[str, dict[str, None]] = {}

    def profile(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(str(ROOT)):
            file = Path(name).relative_to(ROOT)
            if file.parts[0] not in ("tests", ".venv") and frame.f_code.co_name != "<module>":
                found.setdefault(str(file), {}).setdefault(frame.f_code.co_qualname, None)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    return {file: list(functions) for file, functions in found.items()}


def listed(files: dict[str, list[str]]) -> str:
    """For people: a line a file, with what runs in it."""
    lines = [f"{file}: {', '.join(functions)}" for file, functions in files.items()]
    return "\n".join([f"{len(files)} files", *lines])
