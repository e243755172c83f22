"""Counts the passes of decoding on the shapes set, by order, temperature, first guesses and window.

    python dataset/prepare_shapes.py --setting hard --output-dir data/shapes --num-train 1 --num-test 1000
    python scripts/checks/measure_passes.py --data-path data/shapes/test --output-dir scores/passes

Every edit is made with a pass a cell and with windows, for the same seeds: the table shows how many codes
differ (none should, but for ties at the level of rounding), how many codes a pass settles, and the time of
both. `--parallels 2 4 8` adds what cells drawn without knowing each other cost: "done" is the share of edits
that the verifier finds done with all else unchanged, and L1 the distance to the true results. Writes
`passes.json`, row by row, `passes.md`, and for cells in parallel `passes.png`; started again with the same
settings it goes on behind the last row. The command of BENCHMARKS.md makes 10 cases and 61 runs of 200
edits, 10 minutes to an hour on a core of its own:

    python scripts/checks/measure_passes.py --data-path data/shapes/test --output-dir scores/passes \\
        --num-edits 200 --windows 8 --parallels 2 4 8
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.checks.passes_config import MeasurePasses


def main() -> None:
    config = parse(MeasurePasses)
    from scripts.checks.passes import measure_passes  # PyTorch is imported once the flags are right

    measure_passes(config)


if __name__ == "__main__":
    run_command(main)
