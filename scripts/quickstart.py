"""From nothing to a page of edits: data, tokenizer, both training stages, editing, evaluation, report.

Runs the project's own commands one after the other and prints each, so that it is also a worked example. A
step that is done already, with the same command and the same inputs, is not run again; a training that was
interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.shapes.config import Quickstart


def main() -> None:
    config = parse(Quickstart)
    from scripts.shapes.quickstart import run  # slow libraries are imported once the flags are right

    run(config)


if __name__ == "__main__":
    run_command(main)
