"""What a training by rewards shows: log lines, and the same prompts over time."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from autoregressive.train.preview import GAP, save_rows
from autoregressive.train.rewards.config import RewardsConfig
from autoregressive.train.rewards.prompts import Prompts
from autoregressive.train.rewards.rollout import Rollouts
from autoregressive.train.state import TrainState
from dataset.records.images import load_image
from runtime.distributed import Distributed
from runtime.logging import get_logger
from runtime.pictures import save_picture
from runtime.training.meter import TrainingMeter

log = get_logger(__name__)
NUM_PREVIEWS = 12
MOST_IN_STRIP = 12
_LABEL = 40  # pixels at the left of a strip's rows
_SHOWN = ("reward", "kl", "entropy", "equal_groups", "grad_norm")


class RewardMeter(TrainingMeter):
    """Sums what the steps since the last log line counted, over all ranks, and logs the quotients.

    reward, reward_<name>       means over the samples that were judged; <name> is without its weight; absent,
                                as reward_spread is, where none was
    reward_spread               mean standard deviation of the rewards in a group
    equal_groups, failed_groups share of the groups that taught nothing: all rewards alike, or no reward
    kl, entropy, clipped        means over the codes that were trained on, so of the other groups alone
    """

    def __init__(
        self, state: TrainState, total_steps: int, config: RewardsConfig, ranks: Distributed
    ) -> None:
        project, settings = config.wandb_project, asdict(config)
        super().__init__(
            config.results_dir,
            state.step,
            total_steps,
            ranks,
            desc="training",
            wandb_project=project,
            settings=settings,
        )
        self.state, self.config = state, config
        self._sums: dict[str, float] = {}

    def add(self, counts: dict[str, float]) -> None:
        """Takes in one step of this rank: sums, and the numbers of what is summed. All ranks must call it."""
        names = sorted(counts)
        values = torch.tensor([counts[name] for name in names], dtype=torch.float64)
        summed = self.ranks.all_reduce_sum(values.to(self.ranks.device)).tolist()
        for name, value in zip(names, summed, strict=True):
            self._sums[name] = self._sums.get(name, 0.0) + value
        self.count_step()

    def line(self, norm: float | None) -> None:
        """Logs the steps since the last line, with the gradient norm of the latest."""
        sums, self._sums = self._sums, {}
        speed = self.read_speed(self.state.step, self.config.global_batch_size * self.config.group_size)
        numbers = {}
        if sums["rows"]:  # a reward of 0 would be a number of its own
            numbers = {name: sums[name] / sums["rows"] for name in sums if name.startswith("reward")}
            numbers["reward_spread"] = sums["spread"] / (sums["groups"] - sums["failed"])
        numbers["equal_groups"] = sums["equal"] / max(sums["groups"], 1)
        numbers["failed_groups"] = sums["failed"] / max(sums["groups"], 1)
        if sums["codes"]:
            numbers |= {name: sums[name] / sums["codes"] for name in ("kl", "entropy", "clipped")}
        numbers |= {} if norm is None else {"grad_norm": norm}
        numbers |= {
            "lr": self.state.optimizers.param_groups[0]["lr"],
            "samples_per_second": speed.samples_per_second,
            "seconds_left": speed.seconds_left,
            "epoch": self.state.sampler.epoch,
        }
        self.write(self.state.step, **numbers)
        if self.ranks.is_main:
            minutes, seconds = divmod(round(speed.seconds_left), 60)
            shown = "  ".join(f"{name} {numbers[name]:.4f}" for name in _SHOWN if name in numbers)
            log.info(
                f"step {self.state.step}/{self.total_steps}  {shown}  "
                f"{speed.samples_per_second:.1f} samples/s  ends in {minutes}:{seconds:02d}"
            )


class SameAgain:
    """The first prompts of the data, drawn at some of the steps with the same seeds."""

    def __init__(self, prompts: Prompts, rollouts: Rollouts, results_dir: str) -> None:
        self._rollouts, self._root = rollouts, Path(results_dir)
        first = [prompts[index, index] for index in range(min(NUM_PREVIEWS, len(prompts)))]
        self._prompts = [prompt for prompt in first if prompt.problem is None]

    def draw(self, step: int) -> Path | None:
        """Writes `previews/<step>.png`, a row, and `strip.png`: the sources above the rows of the steps."""
        if not self._prompts:
            return None
        prompts = self._rollouts.encode(self._prompts)
        sources = [prompt.case.source for prompt in self._prompts]
        rows = self._rollouts.draw(prompts, [prompt.seed for prompt in self._prompts], 1)
        path = self._root / "previews" / f"{step:07d}.png"
        save_rows([self._rollouts.pictures(rows, sources)], path)
        if sources[0] is not None:
            save_rows([sources], self._root / "sources.png")
        save_strip(self._root)
        return path


def save_strip(folder: Path) -> None:
    """Puts the rows of `previews`, at most `MOST_IN_STRIP` evenly over the steps, below the sources."""
    rows = sorted((folder / "previews").glob("*.png"))
    count = min(len(rows), MOST_IN_STRIP)
    places = [round(i * (len(rows) - 1) / max(count - 1, 1)) for i in range(count)]
    labelled = [(f"{int(rows[i].stem)}", load_image(rows[i])) for i in places]
    if (folder / "sources.png").exists():
        labelled.insert(0, ("source", load_image(folder / "sources.png")))
    width, height = labelled[0][1].size
    strip = Image.new("RGB", (_LABEL + width, len(labelled) * (height - GAP) + GAP), "white")
    draw = ImageDraw.Draw(strip)
    for number, (label, picture) in enumerate(labelled):
        top = number * (height - GAP)
        strip.paste(picture, (_LABEL, top))
        draw.text((GAP, top + height // 2 - 6), label, fill="black")
    save_picture(strip, folder / "strip.png")
