"""Checks a folder of own pairs and makes the list that stage 2 trains on.

    nep prepare pairs --data my_pairs --output my_pairs.jsonl

docs/own_data.md shows how such a folder looks. `nep train editing --data my_pairs` does the same by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from runtime.config import REQUIRED, option, parse
from runtime.errors import UserError, run_command
from runtime.flags import shared


@dataclass(frozen=True)
class PrepareOwnPairs:
    """Checks a folder of own pairs, and writes their list."""

    NEEDED: ClassVar[tuple[str, ...]] = ("data", "output")

    data: str = shared.data("they are checked", REQUIRED)
    output: str | None = option(
        None, help="the .jsonl list to write, for --data-path; without it: check only"
    )

    def __post_init__(self) -> None:
        if self.output is not None and not self.output.endswith(".jsonl"):
            raise UserError(f"--output {self.output}: a list's name ends in .jsonl")


def main() -> None:
    config = parse(PrepareOwnPairs)
    # PyTorch is imported once the flags are right.
    from dataset.prepare.output import write_jsonl
    from dataset.records.own_pairs import check_own_pairs, list_line, tell

    pairs, notes = check_own_pairs(config.data)
    tell(config.data, pairs, notes)
    if config.output is not None:
        write_jsonl(Path(config.output), lambda: map(list_line, pairs))
        print(config.output)


if __name__ == "__main__":
    run_command(main)
