"""Draws images from texts.

python autoregressive/sample/sample_t2i.py --vq-ckpt vq.pt --gpt-ckpt t2i.pt --t5-path t5 \
    --prompts "a red circle at the top left, white background" --output-dir samples
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from autoregressive.sample.drawing import DrawConfig, DrawJob, draw_jobs
from language.caption_cleaning import require_words
from runtime.config import dump_config, option, parse
from runtime.distributed import distributed
from runtime.errors import UserError, run_command
from runtime.files import require_regular
from runtime.logging import get_logger
from runtime.texts import read_text

log = get_logger(__name__)
# For a first look at a model, as LlamaGen's program has some of its own.
PROMPTS = (
    "A wooden sailing boat on a calm lake, with snow-covered mountains behind it.",
    "A bowl of ripe cherries on a blue table cloth, in morning light.",
    "A tabby cat asleep on a stack of old books beside a window.",
    "A narrow street of a coastal town at dusk, with lanterns and white houses.",
)


@dataclass(frozen=True)
class SampleT2I(DrawConfig):
    """Draws images from texts: --prompts, --prompt-file with one per line, or some of its own."""

    TOPICS: ClassVar[dict[str, str]] = {"prompts": "what to draw"}
    EXAMPLES: ClassVar[str] = """
  python autoregressive/sample/sample_t2i.py --vq-ckpt VQ.pt --gpt-ckpt RLlamaGen.pt --t5-path T5_FOLDER \\
      --prompts "a cat on a sofa" --output-dir samples
"""

    prompts: list[str] | None = option(None, help="texts", aliases=["prompt"])
    prompt_file: str | None = option(None, help="file with one text a line")
    output_dir: str = option("samples", help="gets 0000.png, 0001.png, …")


def read_prompts(config: SampleT2I) -> list[str]:
    prompts = {f"--prompts, number {i}": prompt for i, prompt in enumerate(config.prompts or [], start=1)}
    if config.prompt_file is not None:
        path = Path(config.prompt_file)
        require_regular(path, "a list of prompts")
        if not path.is_file():
            raise UserError(f"--prompt-file {path} does not exist")
        lines = enumerate(read_text(path).splitlines(), start=1)
        prompts |= {f"{path} line {number}": line for number, line in lines if line.strip()}
        if not prompts:
            raise UserError(f"--prompt-file {path}: holds no text")
    for origin, prompt in prompts.items():
        require_words(prompt, origin)
    if not prompts:
        log.info("no --prompts and no --prompt-file: drawing %d prompts of this program", len(PROMPTS))
    return list(prompts.values()) or list(PROMPTS)


def main() -> None:
    config = parse(SampleT2I)
    folder = Path(config.output_dir)
    jobs = [
        DrawJob(prompt, config.seed + number, folder / f"{number:04d}.png")
        for number, prompt in enumerate(read_prompts(config))
    ]
    with distributed(config.device) as ranks:
        if ranks.is_main:
            dump_config(config, folder)
        pipeline = config.load_pipeline(ranks.device)
        draw_jobs(pipeline, jobs[ranks.rank :: ranks.world_size], config, ranks)
    log.info("%d images in %s", len(jobs), folder)


if __name__ == "__main__":
    run_command(main)
