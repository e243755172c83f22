"""Scores results on PIE-Bench (PnP Inversion, ICLR 2024) by the definitions of its published evaluator.

    python evaluations/editing/pie_eval.py --pie-path data/pie --generated_path results/images \\
        --save_path results/scores

Structure distance (DINO ViT-B/8 keys), PSNR, MSE, SSIM and LPIPS (SqueezeNet) with the edited part black,
CLIP ViT-L/14 similarity of the whole and of the edited part. `--metric unedited` needs no weights. The copied
source, and with --ceiling_path the tokenizer's reconstruction, stand beside the results. Writes
`evaluation_metrics.json`, every item (`evaluation_items.json`), a page of the worst and best, and a table by
type of edit. Published tables show structure distance and LPIPS times 10^3, MSE times 10^4, SSIM times 10^2.
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
