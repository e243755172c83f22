"""What the guards of a training step cost: blocks of steps with them and without, in turn.

    python -m tests.battery.guard_cost

Without: no signal handlers, nothing added up but the count of supervised slots, no check for numbers that are
not finite, no names of samples. R-GPT-mini in stage 2, 81 cells, 32 samples a step, as the shapes recipe has.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch

from autoregressive.train import inputs, loop
from autoregressive.train.config import EditingConfig
from autoregressive.train.stages import train_editing
from dataset.prepare_shapes import PrepareShapesConfig, prepare_shapes
from runtime.config import parse
from runtime.distributed import ONE_RANK
from runtime.errors import run_command
from runtime.stopping import LateReading
from tests.tiny_files import write_t5, write_tokenizer

BLOCK, BLOCKS = 10, 40  # steps in a block, blocks of each kind
FLAGS = f"""--gpt-model R-GPT-mini --image-size 72 --global-batch-size 32 --device cpu --num-workers 0
    --cache-codes --center-crop --mask_in_context --epochs 1000 --max-steps {BLOCK * (2 * BLOCKS + 2)}
    --no-epoch-save --ckpt-every 100000"""


class _Clock:
    """Times the steps, and switches the guards after each block."""

    def __init__(self) -> None:
        self.guarded = True
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self.switched = contextlib.ExitStack()

    def tick(self, step: int) -> None:
        """Called at the start of every step."""
        now = time.perf_counter()
        if step % BLOCK == 0:
            if step > BLOCK:  # the first block warms up
                self.seconds[self.guarded].append((now - self.start) / BLOCK)
            self.guarded = not self.guarded
            self.switched.close()
            if not self.guarded:
                self.switched.enter_context(without_guards())
            self.start = time.perf_counter()


@contextlib.contextmanager
def without_guards() -> Iterator[None]:
    """Puts nothing in the guards' places."""
    with (
        mock.patch.object(loop, "name_bad", lambda micro_batches: []),
        mock.patch.object(loop, "UncheckedStep", lambda norm, bad, *_: _PLAIN(norm, bad, [], [])),
        mock.patch.object(LateReading, "read", lambda self, number: 0),
        mock.patch.object(torch, "isfinite", lambda tensor: _YES),
    ):
        yield


_PLAIN = loop.UncheckedStep
_YES = torch.tensor(True)


def main() -> None:
    torch.set_num_threads(1)
    clock = _Clock()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        prepare_shapes(
            PrepareShapesConfig(output_dir=str(root / "shapes"), num_train=400, num_test=1, num_emu=0)
        )
        flags = [
            "--vq-ckpt",
            write_tokenizer(root / "vq.pt"),
            "--t5-path",
            write_t5(root / "t5", root / "shapes"),
        ]
        flags += ["--data-path", root / "shapes" / "train" / "editing.jsonl", "--results-dir", root / "run"]
        flags += FLAGS.split()
        make = inputs.editing_inputs

        def watched(*arguments):
            made = make(*arguments)
            finish = made.finish

            def tick_and_finish(prepared):
                clock.tick(prepared.step)
                return finish(prepared)

            made.finish = tick_and_finish
            return made

        with mock.patch("autoregressive.train.stages.editing_inputs", watched):
            train_editing(parse(EditingConfig, list(map(str, flags))), ONE_RANK)
    pairs = list(zip(clock.seconds[True], clock.seconds[False], strict=False))
    ratios = [on / off for on, off in pairs]
    on, off = (1000 * statistics.median(values) for values in zip(*pairs, strict=True))
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"a step with the guards {on:.1f} ms, without {off:.1f} ms")
    print(f"ratio of neighbouring blocks: median {middle:.4f}, half of them in {low:.4f} to {high:.4f}")


if __name__ == "__main__":
    run_command(main)
