"""Images improved at test time, led by a reward: the work of sample_test_time_scaling.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoregressive.editing.arguments import EditOptions, as_regions
from autoregressive.editing.crop import View, paste, views_of
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sample.flags import SampleScaled
from autoregressive.sample.jobs import run_jobs
from autoregressive.sample.loading import load_pipeline, require_marked
from autoregressive.scaling.rewards import build_reward
from autoregressive.scaling.search import SearchResult, SearchSettings, best_of_n, search
from autoregressive.scaling.tasks import Task, TaskBatch
from autoregressive.scaling.trace import strip_of, trace_of
from dataset.records.images import load_image, load_native
from dataset.records.jsonl import JsonLine, JsonlRecords
from dataset.records.masks import load_edit_region
from language.caption_cleaning import require_words
from runtime.config import dump_config
from runtime.distributed import distributed
from runtime.errors import UserError
from runtime.files import require_regular
from runtime.logging import get_logger
from runtime.pictures import save_picture
from runtime.texts import one_a_line, write_json, write_text

log = get_logger(__name__)


@dataclass(frozen=True)
class _Line:
    """One line of the list; images are read when their turn comes."""

    prompt: str
    caption: str | None = None
    image: Path | None = None
    mask: Path | None = None

    def load(self, seed: int, crop: str = "none") -> Task:
        """Its image as `as_native` has it, if it is cropped."""
        load = load_image if crop == "none" else load_native
        image = None if self.image is None else load(self.image)
        mask = None
        if self.mask is not None:
            mask = require_marked(load_edit_region(self.mask, image.size).numpy(), self.mask)
        return Task(self.prompt, self.caption, image, mask, seed)


def crop_task(task: Task, pipeline: EditingPipeline, how: EditOptions) -> tuple[Task, View | None]:
    """The task in what the model, and the reward, see of its image; None where there is no image.

    Args:
      how: with crop, padding and mask rule.
    Raises:
      UserError: its region has several parts far from each other.
    """
    if task.image is None:
        return task, None
    (region,) = as_regions([task.mask], [task.image], how.mask_error)
    model = {"grid": pipeline.grid, "model_size": pipeline.image_size}
    views = views_of(0, task.image.size, region, None, how=how, **model)
    if len(views) > 1:
        raise UserError(
            f"task {task.prompt!r}: its region has {len(views)} parts far from each other, and one crop is "
            "improved at a time: give each part a task of its own, or take --crop none"
        )
    (view,) = views
    mask = None if task.mask is None else view.window.of(task.mask)
    return replace(task, image=task.image.crop(view.window), mask=mask), view


def read_lines(config: SampleScaled) -> list[_Line]:
    """What the flags ask for.

    Raises:
      UserError: no text at all, a list that is missing or malformed, a mask without an image.
    """
    lines = [_Line(prompt) for prompt in config.prompts or []]
    for line in lines:
        require_words(line.prompt, "--prompts")
    if config.task_list is not None:
        path = Path(config.task_list)
        require_regular(path, "a list")
        if not path.is_file():
            raise UserError(f"--list {path} does not exist")
        lines += JsonlRecords([path], _read_line, allow_outside_root=True)
    if not lines:
        raise UserError("give texts with --prompts, or edits with --list")
    return lines


def _read_line(line: JsonLine) -> _Line:
    prompt, caption, image = line.text("prompt"), line.optional_text("caption"), line.optional_path("image")
    require_words(prompt, line.origin)
    line.refuse_training_key()
    mask = line.mask_path("mask") if "mask" in line.values else None
    if mask is not None and image is None:
        raise UserError(f"{line.origin}: has a mask but no image to edit")
    line.require_files(image, mask)
    return _Line(prompt, caption, image, mask)


def improve_all(config: SampleScaled) -> None:
    """Draws or edits what the flags ask for and improves it; writes images, strips and `trace.json`."""
    lines, folder = read_lines(config), Path(config.output_dir)
    # Wrong values are found before any weights are read.
    settings = SearchSettings(
        config.rounds, config.candidates, config.cells, config.region, config.token_budget
    )
    improve = search if config.method == "search" else best_of_n
    traces: dict[str, dict] = {}
    if config.save_rounds and (config.method != "search" or any(line.image for line in lines)):
        raise UserError(
            "--save-rounds is for searches that draw: best_of_n has no rounds, an edit no caption file"
        )
    with distributed(config.device) as ranks:
        pipeline = load_pipeline(config, ranks.device)
        reward = build_reward(
            config.reward, pipeline, clip_model=config.clip_model, clip_ckpt=config.clip_ckpt
        )
        how = EditOptions(mask_rule=config.mask_rule, crop=config.crop, crop_padding=config.crop_padding)
        how = how.over(pipeline.defaults)
        reward.check([line.prompt if line.caption is None else line.caption for line in lines])

        def make(numbered: Sequence[tuple[int, _Line]]) -> None:
            whole = [line.load(config.seed + number, config.crop) for number, line in numbered]
            tasks, views = zip(*(crop_task(task, pipeline, how) for task in whole), strict=True)
            batch = TaskBatch(
                pipeline, tasks, config.sampling(), mode=config.mode, mask_rule=config.mask_rule
            )
            results = improve(batch, reward, settings)
            for i, ((number, line), result) in enumerate(zip(numbered, results, strict=True)):
                name, caption, image = f"{number:04d}.png", batch.captions[i], result.image
                if views[i] is not None:
                    view = replace(views[i], cells=batch.free[i])
                    image, _ = paste(whole[i].image, [view], [image], "cells", pipeline.grid)
                save_picture(image, folder / name)
                save_picture(strip_of(result, pipeline.grid), folder / "strips" / name)
                if config.save_rounds:
                    _save_rounds(result, folder / "rounds", name, config.rounds)
                traces[name] = {"prompt": line.prompt, "caption": caption, "rounds": trace_of(result)}

        run_jobs(list(enumerate(lines)), config.batch_size, ranks, make, desc="scaling", unit="image")
        shares = ranks.gather_objects(traces)
        if ranks.is_main:
            dump_config(config, folder)
            merged = dict(sorted(item for share in shares for item in share.items()))
            _write(folder, merged, config.settings(pipeline.text_encoder))
            if config.save_rounds:
                _write_captions(
                    folder / "rounds", [item["caption"] for item in merged.values()], config.rounds
                )


def _save_rounds(result: SearchResult, folder: Path, name: str, rounds: int) -> None:
    """What the search had after each round, as evaluators of drawn images read it."""
    for number in range(rounds + 1):
        save_picture(result.image_after(number), folder / str(number) / "images" / name)


def _write_captions(folder: Path, captions: Sequence[str], rounds: int) -> None:
    text = one_a_line(captions)
    for number in range(rounds + 1):
        write_text(folder / str(number) / "captions.txt", text)


def _write(folder: Path, items: dict[str, dict], settings: dict) -> None:
    write_json(folder / "trace.json", {"settings": settings, "items": items})
    first, last = (
        sum(item["rounds"][which]["reward"] for item in items.values()) / len(items) for which in (0, -1)
    )
    log.info("%d images in %s: mean reward %.4f at the start, %.4f now", len(items), folder, first, last)
