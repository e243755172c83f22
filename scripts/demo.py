"""A web page on which one paints a region, says what to do, and watches the cells appear.

    pip install -e .[demo]
    python scripts/demo.py                                       # all models in pretrained_models
    python scripts/demo.py --model shapes --model my_models      # these
    python scripts/demo.py --vq-ckpt vq.pt --gpt-ckpt NEP.pt RLlamaGen.pt --t5-path T5 --gpt-model R-GPT-XL

It listens on this machine only unless `--host` says otherwise, and keeps nothing on disk.
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.web_demo.config import Demo


def main() -> None:
    config = parse(Demo)
    from scripts.web_demo.serve import serve  # PyTorch is imported once the flags are right

    serve(config)


if __name__ == "__main__":
    run_command(main)
