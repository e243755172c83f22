"""Prepares PIE-Bench for sampling and scoring.

    python dataset/testsets/prepare_pie_bench.py --data-path data/PIE-Bench --output-dir data/pie
    python autoregressive/sample/sample_magicbrush.py --magicbrush-path data/pie --turns single ...
    python evaluations/editing/pie_eval.py --pie-path data/pie --generated_path results/images

--data-path holds mapping_file.json and annotation_images/, as published. Gives the layout of MagicBrush's
test set: masks (transparent = edit), prompts as descriptions, and as "output", which the set has not, the
source. A stopped run goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.config import REQUIRED, check_ranges, option, parse
from runtime.errors import UserError, run_command
from runtime.flags import shared


@dataclass(frozen=True)
class PreparePieBenchConfig:
    """Turns PIE-Bench's files into a test set that the sampler and the evaluator read."""

    data_path: str = option(REQUIRED, help="folder with mapping_file.json and annotation_images/")
    output_dir: str = shared.output_dir(what="folder to write; a stopped run goes on there")

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        if not (Path(self.data_path) / "mapping_file.json").is_file():
            raise UserError(
                f"--data-path {self.data_path}: no mapping_file.json in it; unpack PIE-Bench there"
            )


def main() -> None:
    config = parse(PreparePieBenchConfig)
    from dataset.testsets.pie_bench import prepare_pie_bench  # PyTorch is imported once the flags are right

    prepare_pie_bench(Path(config.data_path), Path(config.output_dir))


if __name__ == "__main__":
    run_command(main)
