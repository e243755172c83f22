"""Edits the Emu Edit test set: every cell regenerated, as the set has no masks, or with --auto-mask.

    python autoregressive/sample/sample_emu_edit.py --vq-ckpt vq.pt --gpt-ckpt nep.pt --t5-path t5 \\
        --emu-path emu_edit_test_set --valid-list assets/emu_test_data.json --output-dir results/emu

Writes `samples/<idx>.png` and `samples.json`; under torchrun the ranks share the work.
"""

from __future__ import annotations

from autoregressive.sample.flags import SampleEmuEdit
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(SampleEmuEdit)
    # PyTorch is imported once the flags are right.
    from autoregressive.sample.edit_test_sets import sample_emu_edit
    from runtime.distributed import distributed

    with distributed(config.device) as ranks:
        sample_emu_edit(config, ranks)


if __name__ == "__main__":
    run_command(main)
