"""Draws an image for each caption of a list, to be scored: COCO-30K, PartiPrompts.

    torchrun --nproc_per_node=8 autoregressive/sample/sample_t2i_ddp.py --prompt-csv coco_captions.csv \\
        --sample-dir samples_coco --vq-ckpt pretrained_models/vq_ds16_t2i.pt --gpt-model GPT-XL \\
        --gpt-ckpt pretrained_models/t2i_XL_stage1_256.pt --image-size 256

The list is tab-separated with the column Prompt. In a folder of --sample-dir that names model, list and
settings it writes `images/<index>.png` (six digits), `captions.txt` (a line for each image) and
`result.jsonl` (text, image_path); the folder's path goes to stdout. A run that was stopped goes on; images
made with other weights, settings or captions are made anew. Each image depends on its caption and index
alone, not on ranks or batch size.
"""

from __future__ import annotations

from autoregressive.sample.flags import SampleT2IDDP
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(SampleT2IDDP)
    # PyTorch is imported once the flags are right.
    from autoregressive.sample.drawing_captions import draw_captions

    draw_captions(config)


if __name__ == "__main__":
    run_command(main)
