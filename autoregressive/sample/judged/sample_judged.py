"""Edits GEdit-Bench or ImgEdit-Bench, and writes the results where the benchmarks' own judges look for them.

    python autoregressive/sample/judged/sample_judged.py --vq-ckpt vq.pt --gpt-ckpt nep.pt --t5-path t5 \\
        --benchmark gedit --data-path data/GEdit-Bench --output-dir results/gedit/ours
    python autoregressive/sample/judged/sample_judged.py ... --benchmark imgedit \\
        --data-path data/ImgEdit/Benchmark/singleturn --output-dir results/imgedit

gedit    fullset/<task>/<language>/<key>.png, and <key>_SRCIMG.png, the picture before
imgedit  images/<key>.png (the judge's --result_img_folder) and edits.json, the list (its --edit_json)

There are no masks: every cell is regenerated, or with --auto-mask those that the instruction speaks of.
`samples.json` and `regions/` say how and where; under torchrun ranks share the work; a stopped run goes on.
"""

from __future__ import annotations

from autoregressive.sample.flags import SampleJudged
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(SampleJudged)
    # PyTorch is imported once the flags are right.
    from autoregressive.sample.judged.edits import sample_judged
    from runtime.distributed import distributed

    with distributed(config.device) as ranks:
        sample_judged(config, ranks)


if __name__ == "__main__":
    run_command(main)
