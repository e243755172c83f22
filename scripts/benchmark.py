"""Times the project against a plain slow twin and against what the machine can do at most.

    python scripts/benchmark.py all                              # R-GPT-B on two CPU cores, about 20 minutes
    python scripts/benchmark.py decode --gpt-model R-GPT-XL --image-size 256 --dtype bf16
    python scripts/benchmark.py all --device cuda --gpt-model R-GPT-XL --compile

The twin (`benchmarking/baseline.py`) is the same network with the same weights, run as the published
implementation goes about it. Both sides are run in turn in one process; what is quoted is the median, and
the ratio of the pairs. The machine's memory bandwidth and matrix rate are measured in the same run, to tell
which share of them the project reaches. Weights and data are made up. `--output-dir` gets results.json, the
table as Markdown, and pictures.

Groups: loader (training data), prefill, decode, profile (where the time of a step goes on a CPU), edit (whole
edits), windows (the queue and 8 bits too), train (forward and backward), all. `--clock cpu --threads 1`
measures processor time, for a machine on which other programs run:

    python scripts/benchmark.py profile --threads 1 --clock cpu --image-size 256 --dtype bf16
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.benchmarking.config import Benchmark


def main() -> None:
    config = parse(Benchmark)
    from scripts.benchmarking.run import run  # PyTorch is imported once the flags are right

    run(config)


if __name__ == "__main__":
    run_command(main)
