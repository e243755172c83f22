"""The flags of reproduce_scaling.py."""

from __future__ import annotations

from dataclasses import dataclass

from autoregressive.sample.flags import SampleConfig
from runtime.config import REQUIRED, option
from runtime.flags.ranges import COUNT
from scripts.reproduce.rows import SCALING_REWARDS, SCALING_TASKS


@dataclass(frozen=True)
class ReproduceScaling(SampleConfig):
    """Measures test-time scaling on a shapes test set."""

    magicbrush_path: str = option(REQUIRED, help="test set, with global_descriptions.json")
    output_dir: str = option(REQUIRED, help="gets <task>_<reward>.json and strips/")
    tasks: list[str] = option(
        list(SCALING_TASKS),
        help="draw the results from their descriptions, or edit zero-shot",
        choices=list(SCALING_TASKS),
    )
    rewards: list[str] = option(list(SCALING_REWARDS), help="what leads the search", choices=SCALING_REWARDS)
    num_tasks: int = option(256, within=COUNT, help="the first so many edits of the set")
    rounds: int = option(4, within=COUNT, help="attempts to improve an image")
    candidates: int = option(4, within=COUNT, help="ways in which a round draws its cells")
