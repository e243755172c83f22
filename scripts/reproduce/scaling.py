"""Test-time scaling on held-out shapes: the work of reproduce_scaling.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import torch

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sample.edit_sets import magicbrush_sha256
from autoregressive.sample.loading import load_pipeline
from autoregressive.scaling.choices import METHODS
from autoregressive.scaling.rewards import build_reward
from autoregressive.scaling.search import SearchResult, SearchSettings, best_of_n, search
from autoregressive.scaling.shapes_reward import ShapesReward
from autoregressive.scaling.tasks import Task, TaskBatch
from autoregressive.scaling.trace import strip_of
from dataset.edit_masks import resize_mask
from dataset.records.images import load_image
from dataset.records.masks import load_magicbrush_mask
from dataset.testsets.magicbrush import Turn, iterate_turns, read_descriptions, read_sessions
from runtime.distributed import distributed
from runtime.errors import UserError
from runtime.files import without_mac_metadata
from runtime.logging import get_logger, progress
from runtime.pictures import save_picture
from runtime.texts import write_json
from scripts.reproduce.scaling_config import ReproduceScaling
from scripts.shapes.scores import ZERO_SHOT_WIDENING

log = get_logger(__name__)

_NUM_STRIPS = 12


def load_tasks(config: ReproduceScaling, task: str) -> list[Task]:
    """The first results of the test set: to draw from their descriptions, or to edit into."""
    descriptions = read_descriptions(config.magicbrush_path, "global")
    turns = list(iterate_turns(read_sessions(config.magicbrush_path)))
    if not 1 <= config.num_tasks <= len(turns):
        raise UserError(
            f"--num-tasks {config.num_tasks}: take 1 to {len(turns)}, all of {config.magicbrush_path}"
        )
    turns = turns[: config.num_tasks]

    def load(number: int, turn: Turn) -> Task:
        text, seed = descriptions[turn.session_id][turn.output_path.name], 10_000 * config.seed + number
        if task == "draw":
            return Task(text, seed=seed)
        mask = resize_mask(load_magicbrush_mask(turn.mask_path)[None], ZERO_SHOT_WIDENING)[0].numpy()
        return Task(text, image=load_image(turn.input_path), mask=mask, seed=seed)

    return [load(number, turn) for number, turn in enumerate(turns)]


def summarise(results: Sequence[SearchResult], captions: Sequence[str]) -> dict[str, list[float]]:
    """Means over tasks after each round, the first of which draws; a task that stops keeps its image.

    Returns:
      {"reward", "accuracy" (share of right images), "images_worth" (tokens drawn over those of one image)}
    """
    judge = ShapesReward()
    columns: dict[str, list[float]] = {"reward": [], "accuracy": [], "images_worth": []}
    right = [False] * len(results)
    for number in range(max(len(result.rounds) for result in results)):
        new = [i for i, r in enumerate(results) if number < len(r.rounds) and r.rounds[number].accepted]
        images = [results[i].rounds[number].image for i in new]
        for i, score in zip(new, judge.score(images, [captions[i] for i in new]), strict=True):
            right[i] = bool(score == judge.highest)
        reached = [result.rounds[min(number, len(result.rounds) - 1)] for result in results]
        free = [len(result.rounds[0].cells) for result in results]
        columns["reward"].append(_mean([r.reward for r in reached]))
        columns["accuracy"].append(_mean(right))
        columns["images_worth"].append(
            _mean([r.tokens_spent / n for r, n in zip(reached, free, strict=True)])
        )
    return columns


def summarise_both(
    results: Mapping[str, Sequence[SearchResult]], captions: Sequence[str], settings: SearchSettings
) -> dict[str, dict[str, list[float]]]:
    """Of each method the columns of `summarise`, and "budget": what a round may have cost, in images' worth.

    A search draws less than its budget where the reward cannot rise any more. Its columns go on to the last
    round all the same.
    """
    summary = {method: summarise(found, captions) for method, found in results.items()}
    for column in summary["search"].values():
        column += column[-1:] * (settings.rounds + 1 - len(column))
    free = [len(result.rounds[0].cells) for result in results["search"]]
    full = (settings.cost(torch.tensor(free)) / torch.tensor(free)).mean().item()
    steps = range(settings.rounds + 1)
    summary["search"]["budget"] = [1 + (full - 1) * number / max(settings.rounds, 1) for number in steps]
    summary["best_of_n"]["budget"] = summary["best_of_n"]["images_worth"]
    return summary


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def measure(
    pipeline: EditingPipeline, config: ReproduceScaling, task: str, reward_name: str
) -> dict[str, dict[str, list[float]]]:
    """Runs both methods on all tasks, writes strips of some that improved, and summarises."""
    tasks, settings = load_tasks(config, task), SearchSettings(config.rounds, config.candidates)
    reward = build_reward(reward_name, pipeline)
    results: dict[str, list[SearchResult]] = {method: [] for method in METHODS}
    with progress(total=len(tasks), desc=f"{task}, led by {reward_name}", unit="image") as bar:
        for start in range(0, len(tasks), config.batch_size):
            part = tasks[start : start + config.batch_size]
            batch = TaskBatch(pipeline, part, config.sampling(), mask_rule="exact")
            results["search"] += search(batch, reward, settings)
            results["best_of_n"] += best_of_n(batch, reward, settings)
            bar.update(len(part))
    improved = [result for result in results["search"] if sum(r.accepted for r in result.rounds) > 1]
    for number, result in enumerate(improved[:_NUM_STRIPS]):
        name = f"{task}_{reward_name}_{number:02d}.png"
        save_picture(strip_of(result, pipeline.grid), Path(config.output_dir) / "strips" / name)
    return summarise_both(results, [task.prompt for task in tasks], settings)


def run(config: ReproduceScaling) -> None:
    """Measures every task with every reward, where that is not done yet."""
    with distributed(config.device) as ranks:
        pipeline = load_pipeline(config, ranks.device)
        settings = config.settings(pipeline.text_encoder)
        settings = {key: value for key, value in settings.items() if key not in ("tasks", "rewards")}
        json_files = without_mac_metadata(Path(config.magicbrush_path).glob("*.json"))
        sessions = read_sessions(config.magicbrush_path)
        settings["test_set_sha256"] = magicbrush_sha256(sessions, json_files)
        for task, reward in product(config.tasks, config.rewards):
            path = Path(config.output_dir) / f"{task}_{reward}.json"
            if _is_done(path, settings):
                log.info("%s: done already", path)
                continue
            content = {"settings": settings, **measure(pipeline, config, task, reward)}
            write_json(path, content)
            last = {m: f"{content[m]['accuracy'][-1]:.3f}" for m in METHODS}
            log.info("%s: right at first %.3f, at last %s", path, content["search"]["accuracy"][0], last)


def _is_done(path: Path, settings: dict) -> bool:
    return path.is_file() and json.loads(path.read_text())["settings"] == settings
