"""Prepares BrushBench, or EditBench as BrushNet's authors publish it, for sampling and scoring.

    python dataset/testsets/prepare_brush_bench.py --data-path data/BrushBench --output-dir data/brush
    python dataset/testsets/prepare_brush_bench.py --data-path data/BrushBench --output-dir data/brush_out \\
        --mask-key outpainting_mask
    python autoregressive/sample/sample_magicbrush.py --magicbrush-path data/brush --turns single ...
    python evaluations/editing/pie_eval.py --pie-path data/brush --generated_path results/images

--data-path holds mapping_file.json and images/, as published. Gives the layout of MagicBrush's test set:
masks (transparent = edit), captions as instructions and descriptions, and as "output" the source. A stopped
run goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.config import REQUIRED, check_ranges, option, parse
from runtime.errors import UserError, run_command
from runtime.flags import shared


@dataclass(frozen=True)
class PrepareBrushBenchConfig:
    """Turns BrushBench's or EditBench's files into a test set that the sampler and the evaluator read."""

    data_path: str = option(REQUIRED, help="folder with mapping_file.json and images/")
    output_dir: str = shared.output_dir(
        what="folder to write, one for each mask; a stopped run goes on there"
    )
    mask_key: str = option(
        "inpainting_mask",
        help="which of the masks: inpainting_mask (inside the object), outpainting_mask (around it)",
    )

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        if not (Path(self.data_path) / "mapping_file.json").is_file():
            raise UserError(f"--data-path {self.data_path}: no mapping_file.json in it; unpack the set there")


def main() -> None:
    config = parse(PrepareBrushBenchConfig)
    # PyTorch is imported once the flags are right.
    from dataset.testsets.brush_bench import prepare_brush_bench

    prepare_brush_bench(Path(config.data_path), Path(config.output_dir), config.mask_key)


if __name__ == "__main__":
    run_command(main)
