"""Compares the models with recorded inputs and outputs of the published implementation.

`python scripts/check_reference.py FOLDER` prints one row per recorded quantity and exits 1 if any is off.
The kind of a file and the model's configuration come from its keys and metadata, so files of any size serve.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from runtime.config import argument, option, parse
from runtime.errors import run_command


@dataclass(frozen=True)
class CheckReference:
    """Compares the models with recorded inputs and outputs of the published implementation."""

    folder: str = argument("the folder with the recorded files")
    full: bool = option(False, help="also the files of large models (4 GB of memory, half a minute)")


def main() -> None:
    config = parse(CheckReference)
    from scripts.checks.reference import check  # PyTorch is imported once the flags are right

    if not check(Path(config.folder), config.full):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
