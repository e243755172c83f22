"""The flags of reproduce_scaling.py."""

from __future__ import annotations

from dataclasses import dataclass

from autoregressive.sample.flags import SampleConfig
from runtime.config import REQUIRED, option
from runtime.flags import drawing, shared
from runtime.flags.ranges import COUNT
from scripts.reproduce.rows import SCALING_REWARDS, SCALING_TASKS


@dataclass(frozen=True)
class ReproduceScaling(SampleConfig):
    """Measures test-time scaling on a shapes test set."""

    magicbrush_path: str = shared.magicbrush_path(REQUIRED, "test set, with global_descriptions.json")
    output_dir: str = shared.output_dir(what="gets <task>_<reward>.json and strips/")
    tasks: list[str] = option(
        list(SCALING_TASKS),
        help="draw the results from their descriptions, or edit zero-shot",
        choices=list(SCALING_TASKS),
    )
    rewards: list[str] = option(list(SCALING_REWARDS), help="what leads the search", choices=SCALING_REWARDS)
    num_tasks: int = option(256, within=COUNT, help="the first so many edits of the set")
    rounds: int = drawing.rounds()
    candidates: int = drawing.candidates()

    @property
    def wants_drawing(self) -> bool:
        return True
