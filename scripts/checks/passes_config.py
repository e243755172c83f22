"""The flags of measure_passes.py."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.config import REQUIRED, check_ranges, option
from runtime.flags import shared
from runtime.flags.ranges import COUNT

CASES = ("editor", "zero_shot", "regeneration")


@dataclass(frozen=True)
class MeasurePasses:
    """Codes a pass on a shapes test set, and whether windows give the codes of one cell a pass."""

    data_path: str = option(REQUIRED, help="test folder of prepare_shapes.py")
    output_dir: str = shared.output_dir(REQUIRED, "gets passes.json, passes.md and passes.png")
    models: str = option("pretrained_models/shapes", help="folder with an editing and a t2i model")
    cases: list[str] = option(CASES, help="what to measure", choices=CASES)
    windows: list[int] = option((8,), within=COUNT, help="cells that a pass may settle")
    parallels: list[int] = option((), within=COUNT, help="cells drawn at once, without knowing each other")
    num_edits: int = shared.num_edits(1000, "the first so many edits")
    batch_size: int = shared.batch_size(25, "edits decoded together; 1: one by one")
    trace_path: str | None = option(
        None, help="gets the codes that each pass of the editor settles, by window, for scripts/benchmark.py"
    )
    device: str | None = option(None, help="cuda, cuda:1, cpu (default: the GPU if there is one)")

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
