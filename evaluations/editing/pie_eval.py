"""Scores results on PIE-Bench, BrushBench or EditBench by the definitions of their published evaluators.

    python evaluations/editing/pie_eval.py --pie-path data/pie --generated_path results/images \\
        --save_path results/scores

--pie-path is a set as prepare_pie_bench.py or prepare_brush_bench.py writes it.

PIE-Bench (PnP Inversion, ICLR 2024): structure distance (DINO ViT-B/8 keys), PSNR, MSE, SSIM and LPIPS
(SqueezeNet) with the edited part black, CLIP ViT-L/14 similarity of the whole and of the edited part;
`--metric unedited` needs no weights. Published tables show structure distance and LPIPS times 10^3, MSE times
10^4, SSIM times 10^2.

BrushBench, EditBench (BrushNet, ECCV 2024): PSNR, MSE and LPIPS of what is to be kept, CLIP similarity;
`--metric kept` needs no weights. Published tables show LPIPS and MSE times 10^3.

The copied source, and with --ceiling_path the tokenizer's reconstruction, stand beside the results. Writes
`evaluation_metrics.json`, every item (`evaluation_items.json`), a page of the worst and best, and a table,
PIE-Bench's also by type of edit.
"""

from __future__ import annotations

from evaluations.editing.flags import PieEvalConfig
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(PieEvalConfig)
    from evaluations.editing.pie_scores import run  # PyTorch is imported once the flags are right

    run(config)


if __name__ == "__main__":
    run_command(main)
