"""Edits one image, or a list of them.

python autoregressive/sample/sample_editing.py --vq-ckpt vq.pt --gpt-ckpt nep.pt --t5-path t5 \
    --image cat.png --mask region.png --prompt "give the cat a hat" --output edited.png

With `--mask auto` the model finds the region itself.
"""

from __future__ import annotations

from autoregressive.sample.flags import SampleEditing
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(SampleEditing)
    # PyTorch is imported once the flags are right.
    from autoregressive.sample.file_edits import edit_all

    edit_all(config)


if __name__ == "__main__":
    run_command(main)
