"""Scores a folder of results beside the true results, picture by picture.

    nep evaluate pairs results/edits my_pairs/
    python evaluations/editing/pairs_eval.py results/edits truth/ --save_path results/scores

Pictures are paired by their names below the two folders, whatever their suffix. The second may be a folder of
own pairs (docs/own_data.md): then the edited pictures are the truth, and their sources make the row "copy the
source"; with `--source_path` any other folder of sources does. Without `--metric` all is measured that can be
here: CLIP and DINO where their weights are. Writes what `image_eval.py` writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluations.editing.flags import PAIR_NAMES, ScoreFlags
from runtime.config import argument, option, parse
from runtime.errors import run_command


@dataclass(frozen=True)
class PairsEvalConfig(ScoreFlags):
    """Scores results beside the true results, two folders of pictures with the same names."""

    NEEDED: ClassVar[tuple[str, ...]] = ("source_path", "metric", "save_path")
    EXAMPLES: ClassVar[str] = """
  nep evaluate pairs results/edits my_pairs/
  nep evaluate pairs results/edits truth/ --source-path before/ --metric l1,l2,clip-i
"""

    results: str = argument("folder of results")
    truth: str = argument("folder of true results, or of own pairs")
    source_path: str | None = option(None, help="folder of the pictures before; adds the row copy_source")
    regions_path: str | None = option(
        None, help="folder of pictures, white where an edit may change: metrics inside and outside"
    )
    metric: str | None = option(
        None, help=f"comma-separated, of {', '.join(PAIR_NAMES)}; default: all that can be measured here"
    )

    @property
    def folders(self) -> list[str]:
        """The one folder of results."""
        return [self.results]


def main() -> None:
    config = parse(PairsEvalConfig)
    from evaluations.editing.pair_scores import run  # PyTorch is imported once the flags are right

    run(config)


if __name__ == "__main__":
    run_command(main)
