"""From an npm package of emoji to a page of edits: data, tokenizer, both trainings, editing, evaluation.

    python scripts/emoji/train_emoji.py --package emoji-datasource-google-16.0.0.tgz --num-ranks 2

Hours on two CPU cores, or `--steps-scale 0.1` for a look. Steps that are done are skipped, an interrupted
training goes on. `scripts/emoji.sh` fetches the package first.
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.emoji.config import TrainEmoji


def main() -> None:
    config = parse(TrainEmoji)
    from scripts.emoji.run import run  # slow libraries are imported once the flags are right

    run(config)


if __name__ == "__main__":
    run_command(main)
