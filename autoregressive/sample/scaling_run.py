"""Images improved at test time, led by a reward: the work of sample_test_time_scaling.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoregressive.sample.flags import SampleScaled
from autoregressive.sample.jobs import run_jobs
from autoregressive.sample.loading import load_pipeline, require_marked
from autoregressive.scaling.rewards import build_reward
from autoregressive.scaling.search import SearchSettings, best_of_n, search
from autoregressive.scaling.tasks import Task, TaskBatch
from autoregressive.scaling.trace import strip_of, trace_of
from dataset.records.images import load_edit_region, load_image
from dataset.records.jsonl import JsonLine, JsonlRecords
from language.caption_cleaning import require_words
from runtime.config import dump_config
from runtime.distributed import distributed
from runtime.errors import UserError
from runtime.files import require_regular, write_atomic
from runtime.logging import get_logger
from runtime.pictures import save_picture

log = get_logger(__name__)


@dataclass(frozen=True)
class _Line:
    """One line of the list; images are read when their turn comes."""

    prompt: str
    caption: str | None = None
    image: Path | None = None
    mask: Path | None = None

    def load(self, seed: int) -> Task:
        image = None if self.image is None else load_image(self.image)
        mask = None
        if self.mask is not None:
            mask = require_marked(load_edit_region(self.mask, image.size).numpy(), self.mask)
        return Task(self.prompt, self.caption, image, mask, seed)


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
    with distributed(config.device) as ranks:
        pipeline = load_pipeline(config, ranks.device)
        reward = build_reward(
            config.reward, pipeline, clip_model=config.clip_model, clip_ckpt=config.clip_ckpt
        )
        reward.check([line.prompt if line.caption is None else line.caption for line in lines])

        def make(numbered: Sequence[tuple[int, _Line]]) -> None:
            tasks = [line.load(config.seed + number) for number, line in numbered]
            batch = TaskBatch(
                pipeline, tasks, config.sampling(), mode=config.mode, mask_rule=config.mask_rule
            )
            results = improve(batch, reward, settings)
            for (number, line), caption, result in zip(numbered, batch.captions, results, strict=True):
                name = f"{number:04d}.png"
                save_picture(result.image, folder / name)
                save_picture(strip_of(result, pipeline.grid), folder / "strips" / name)
                traces[name] = {"prompt": line.prompt, "caption": caption, "rounds": trace_of(result)}

        run_jobs(list(enumerate(lines)), config.batch_size, ranks, make, desc="scaling", unit="image")
        shares = ranks.gather_objects(traces)
        if ranks.is_main:
            dump_config(config, folder)
            merged = dict(sorted(item for share in shares for item in share.items()))
            _write(folder, merged, config.settings(pipeline.text_encoder))


def _write(folder: Path, items: dict[str, dict], settings: dict) -> None:
    content = json.dumps({"settings": settings, "items": items}, indent=1)
    write_atomic(folder / "trace.json", lambda path: path.write_text(content + "\n", encoding="utf-8"))
    first, last = (
        sum(item["rounds"][which]["reward"] for item in items.values()) / len(items) for which in (0, -1)
    )
    log.info("%d images in %s: mean reward %.4f at the start, %.4f now", len(items), folder, first, last)
