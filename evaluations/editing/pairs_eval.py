"""Scores a folder of results beside the true results, picture by picture.

    nep evaluate pairs results/edits my_pairs/
    python evaluations/editing/pairs_eval.py results/edits truth/ --save_path results/scores

Pictures are paired by their names below the two folders, whatever their suffix. The second may be a folder of
own pairs (docs/own_data.md): then the edited pictures are the truth, and their sources make the row "copy the
source"; with `--source_path` any other folder of sources does. Without `--metric` all is measured that can be
here: CLIP and DINO where their weights are. Writes what `image_eval.py` writes.
"""

from __future__ import annotations

from evaluations.editing.flags import PairsEvalConfig
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(PairsEvalConfig)
    from evaluations.editing.pair_scores import run  # PyTorch is imported once the flags are right

    run(config)


if __name__ == "__main__":
    run_command(main)
