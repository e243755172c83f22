"""Improves drawn images and edits at test time, led by a reward.

python autoregressive/sample/test_time_scaling.py --vq-ckpt vq.pt --gpt-ckpt t2i.pt --t5-path t5 \
    --prompts "a red circle at the top left, gray background" --reward shapes --output-dir scaled

Writes 0000.png, … , strips/0000.png, … (start and accepted rounds) and trace.json into --output-dir.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from autoregressive.editing.choices import MODES
from autoregressive.sample.common import SampleConfig, require_marked
from autoregressive.scaling.regions import REGIONS
from autoregressive.scaling.rewards import REWARDS, build_reward
from autoregressive.scaling.search import METHODS, SearchSettings, best_of_n, search
from autoregressive.scaling.tasks import Task, TaskBatch
from autoregressive.scaling.trace import strip_of, trace_of
from dataset.edit_masks import RULES
from dataset.records.images import load_edit_region, load_image
from dataset.records.jsonl import JsonLine, JsonlRecords
from language.caption_cleaning import require_words
from runtime.config import dump_config, option, parse
from runtime.distributed import distributed
from runtime.errors import UserError, run_command
from runtime.files import require_regular, write_atomic
from runtime.flags.ranges import COUNT
from runtime.logging import get_logger, progress
from runtime.pictures import save_picture

log = get_logger(__name__)


@dataclass(frozen=True)
class SampleScaled(SampleConfig):
    """Draws images (--prompts) or edits (--list), then improves them by a reward."""

    TOPICS: ClassVar[dict[str, str]] = {"prompts": "what to draw", "reward": "the search"}

    prompts: list[str] | None = option(None, help="texts to draw", aliases=["prompt"])
    task_list: str | None = option(
        None,
        help="a .jsonl with the keys prompt, image (to edit), mask, caption (of the result, for the reward), "
        "all but prompt optional (paths relative to it), the caption not for models that read instructions",
        aliases=["list"],
    )
    output_dir: str = option("scaled", help="gets 0000.png, 0001.png, …, strips/ and trace.json")
    reward: str = option("clip", help="what judges the images", choices=REWARDS)
    method: str = option(
        "search",
        help="best_of_n: the baseline, whole images for as many codes as a search may draw",
        choices=tuple(METHODS),
    )
    rounds: int = option(4, within=COUNT, help="attempts to improve an image")
    candidates: int = option(4, within=COUNT, help="ways in which a round draws its cells, all at once")
    cells: int | None = option(
        None, within=COUNT, help="cells that a round draws again; default: a quarter of the free"
    )
    region: str = option(
        "lowest",
        help="how they are chosen: lowest by the reward's token scores, by the model's own likelihood, or at "
        "random",
        choices=REGIONS,
    )
    token_budget: int | None = option(
        None, within=COUNT, help="codes that one image may cost in all, the first included"
    )
    mode: str | None = option(
        None, help="how to edit; default: marks if the model has them, else zero_shot", choices=MODES
    )
    mask_rule: str = option("published", help="pixel mask to cells", choices=RULES)
    clip_model: str | None = option(None, help="open_clip's name of the CLIP of --reward clip")
    clip_ckpt: str | None = option(None, help="its weights (default: pretrained_models, the user's caches)")

    def search_settings(self) -> SearchSettings:
        return SearchSettings(self.rounds, self.candidates, self.cells, self.region, self.token_budget)


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


def main() -> None:
    config = parse(SampleScaled)
    lines, folder = read_lines(config), Path(config.output_dir)
    settings = config.search_settings()  # wrong values are found before any weights are read
    improve = search if config.method == "search" else best_of_n
    with distributed(config.device) as ranks:
        pipeline = config.load_pipeline(ranks.device)
        reward = build_reward(
            config.reward, pipeline, clip_model=config.clip_model, clip_ckpt=config.clip_ckpt
        )
        reward.check([line.prompt if line.caption is None else line.caption for line in lines])
        numbered = list(enumerate(lines))[ranks.rank :: ranks.world_size]
        traces = {}
        with progress(total=len(numbered), desc="scaling", unit="image", disable=not ranks.is_main) as bar:
            for start in range(0, len(numbered), config.batch_size):
                part = numbered[start : start + config.batch_size]
                tasks = [line.load(config.seed + number) for number, line in part]
                batch = TaskBatch(
                    pipeline, tasks, config.sampling(), mode=config.mode, mask_rule=config.mask_rule
                )
                results = improve(batch, reward, settings)
                for (number, line), caption, result in zip(part, batch.captions, results, strict=True):
                    name = f"{number:04d}.png"
                    save_picture(result.image, folder / name)
                    save_picture(strip_of(result, pipeline.grid), folder / "strips" / name)
                    traces[name] = {
                        "prompt": line.prompt,
                        "caption": caption,
                        "rounds": trace_of(result),
                    }
                bar.update(len(part))
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


if __name__ == "__main__":
    run_command(main)
