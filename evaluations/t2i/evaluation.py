"""Text-to-image quality on COCO: FID against all of val2014, and the CLIP score.

    python evaluations/t2i/evaluation.py --fake_dir samples/coco30k --ref_dir data/coco --eval_res 256

`<fake_dir>/images/*.png` are the generated images and `<fake_dir>/captions.txt` their captions, a line each,
the first for 000000.png (or 0.png); `<ref_dir>/val2014` holds the references (with another --ref_data
`<ref_dir>/<ref_type>`, without captions).

Writes `score.txt` (as published), `score.json`, `score_items.json` and `score_items.html` (the worst and best
images by CLIP score) into `<fake_dir>`. The statistics of the references are kept in `--fid_cache`, where an
interrupted run goes on too. Under torchrun the ranks share the work.
"""

from __future__ import annotations

from evaluations.t2i.flags import T2IEvalConfig
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(T2IEvalConfig)
    from evaluations.t2i.scores import run  # PyTorch is imported once the flags are right

    run(config)


if __name__ == "__main__":
    run_command(main)
