"""Drawing images from texts, any number of ranks sharing the work; that of sample_t2i.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sample.flags import DrawConfig, SampleT2I
from autoregressive.sample.jobs import run_jobs
from autoregressive.sample.loading import load_pipeline, note_unknown_words
from language.caption_cleaning import require_words
from runtime.config import dump_config
from runtime.distributed import Distributed, distributed
from runtime.errors import UserError
from runtime.files import require_regular
from runtime.logging import get_logger
from runtime.pictures import save_picture
from runtime.texts import read_lines

log = get_logger(__name__)
# For a first look at a model, as LlamaGen's program has some of its own.
PROMPTS = (
    "A wooden sailing boat on a calm lake, with snow-covered mountains behind it.",
    "A bowl of ripe cherries on a blue table cloth, in morning light.",
    "A tabby cat asleep on a stack of old books beside a window.",
    "A narrow street of a coastal town at dusk, with lanterns and white houses.",
)


@dataclass(frozen=True)
class DrawJob:
    """One image to draw; the result hangs on text and seed alone."""

    text: str
    seed: int
    path: Path


def draw_jobs(
    pipeline: EditingPipeline,
    jobs: Sequence[DrawJob],
    config: DrawConfig,
    ranks: Distributed,
    *,
    keep_whole: bool = False,
) -> None:
    """Draws this rank's share of the jobs and writes PNG files, each whole or not at all.

    Args:
      jobs: those of all ranks.
      keep_whole: leave out images that are there already, undamaged and of the model's size.
    """
    if config.order != "raster" and not pipeline.transformer.config.any_order:
        raise UserError(
            f"--order {config.order}: {config.gpt_ckpt} holds a raster-order GPT model, not an R-GPT one"
        )

    if ranks.is_main:
        note_unknown_words(pipeline, [job.text for job in jobs])

    def draw(batch: Sequence[DrawJob]) -> None:
        seeds = [job.seed for job in batch]
        texts = [job.text for job in batch]
        images = pipeline.draw(texts, seeds=seeds, sampling=config.sampling(), orders=config.order)
        for job, image in zip(batch, images, strict=True):
            save_picture(image, job.path)

    def is_done(job: DrawJob) -> bool:
        return keep_whole and is_whole(job.path, pipeline.image_size)

    run_jobs(jobs, config.batch_size, ranks, draw, desc="drawing", unit="image", is_done=is_done)


def is_whole(path: Path, image_size: int) -> bool:
    """Whether `path` is an undamaged picture of this size."""
    try:
        with Image.open(path) as image:
            image.verify()
            return image.size == (image_size, image_size)
    except (OSError, SyntaxError):  # what Pillow raises for missing, foreign and damaged files
        return False


def read_prompts(config: SampleT2I) -> list[str]:
    prompts = {f"--prompts, number {i}": prompt for i, prompt in enumerate(config.prompts or [], start=1)}
    if config.prompt_file is not None:
        path = Path(config.prompt_file)
        require_regular(path, "a list of prompts")
        if not path.is_file():
            raise UserError(f"--prompt-file {path} does not exist")
        lines = enumerate(read_lines(path), start=1)
        prompts |= {f"{path} line {number}": line for number, line in lines if line.strip()}
        if not prompts:
            raise UserError(f"--prompt-file {path}: holds no text")
    for origin, prompt in prompts.items():
        require_words(prompt, origin)
    if not prompts:
        log.info("no --prompts and no --prompt-file: drawing %d prompts of this program", len(PROMPTS))
    return list(prompts.values()) or list(PROMPTS)


def draw_prompts(config: SampleT2I) -> None:
    """Draws what the flags ask for."""
    folder = Path(config.output_dir)
    jobs = [
        DrawJob(prompt, config.seed + number, folder / f"{number:04d}.png")
        for number, prompt in enumerate(read_prompts(config))
    ]
    with distributed(config.device) as ranks:
        if ranks.is_main:
            dump_config(config, folder)
        draw_jobs(load_pipeline(config, ranks.device), jobs, config, ranks)
    log.info("%d images in %s", len(jobs), folder)
