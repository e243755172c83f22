"""Edits one image, or a list of them.

python autoregressive/sample/sample_editing.py --vq-ckpt vq.pt --gpt-ckpt nep.pt --t5-path t5 \
    --image cat.png --mask region.png --prompt "give the cat a hat" --output edited.png

With `--mask auto` the model finds the region itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from autoregressive.editing.auto_mask import AUTO
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.results import EditResult
from autoregressive.sample.common import EditSampleConfig, require_marked
from dataset.records.images import load_edit_region, load_image
from dataset.records.jsonl import NO_MASK, JsonLine, JsonlRecords
from language.caption_cleaning import require_words
from runtime.config import option, parse
from runtime.distributed import distributed
from runtime.errors import UserError, run_command
from runtime.files import require_regular
from runtime.logging import get_logger, progress
from runtime.pictures import like, require_saveable, save_picture

log = get_logger(__name__)


@dataclass(frozen=True)
class SampleEditing(EditSampleConfig):
    """Edits one image (--image --mask --prompt --output), or a list of them (--list)."""

    TOPICS: ClassVar[dict[str, str]] = {"image": "what to edit"}
    EXAMPLES: ClassVar[str] = """
  python autoregressive/sample/sample_editing.py --vq-ckpt VQ.pt --gpt-ckpt NEP.pt --t5-path T5_FOLDER \\
      --image photo.png --mask region.png --prompt "a red hat on the cat" --output edited.png
"""

    image: str | None = option(None, help="image to edit")
    mask: str | None = option(
        None, help="region, white = edit; auto finds it; none regenerates the whole image"
    )
    prompt: str | None = option(None, help="what to do (zero-shot: what the result shows)")
    output: str = option(
        "edited.png", help="where the result goes; the suffix says the format: .png, .webp, .bmp (or .jpg)"
    )
    comparison: str | None = option(None, help="also write source, region and result side by side here")
    list: str | None = option(
        None, help="a .jsonl of edits with the keys image, mask, prompt, output (paths relative to it)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask == AUTO and self.full_mask:
            raise UserError("--mask auto finds the region, --full-mask takes every cell: give one of them")
        own = ("image", "mask", "prompt", "output", "comparison")
        given = [f"--{name}" for name in own if getattr(self, name) != getattr(SampleEditing, name)]
        if self.list is not None and given:
            raise UserError(
                f"--list {self.list} says itself what to edit, with which masks: leave out {', '.join(given)}"
            )
        for path in filter(None, (self.output, self.comparison)):
            require_saveable(path)


@dataclass(frozen=True)
class EditJob:
    """One line of work."""

    image: Path
    mask: Path | str | None  # "auto" is no file
    prompt: str
    output: Path
    origin: str = ""  # file and line, of a list


def read_jobs(config: SampleEditing) -> list[EditJob]:
    """The edits that the flags ask for."""
    if config.list is None:
        if config.image is None or config.prompt is None:
            raise UserError("give --image and --prompt for one edit, or --list for many")
        require_words(config.prompt, "--prompt")
        return [EditJob(Path(config.image), _mask(config.mask), config.prompt, Path(config.output))]
    path = Path(config.list)
    require_regular(path, "a list")
    if not path.is_file():
        raise UserError(f"--list {path} does not exist")
    # The list is the user's own and says where results go: its paths may lead anywhere.
    jobs = list(JsonlRecords([path], _read_job, allow_outside_root=True))
    _require_own_outputs(jobs)
    return jobs


def _read_job(line: JsonLine) -> EditJob:
    prompt, output = line.text("prompt"), line.text("output")
    require_words(prompt, line.origin)
    value = line.values.get("mask")
    mask = value if value in (None, AUTO) else line.mask_path("mask")
    job = EditJob(line.path("image"), mask, prompt, line.file.parent / output, line.origin)
    line.require_files(job.image, job.mask)
    return job


def _require_own_outputs(jobs: Sequence[EditJob]) -> None:
    """Raises `UserError` where two lines would write the same file, or one a folder."""
    written: dict[Path, str] = {}
    for job in jobs:
        try:
            file = job.output.resolve()
            is_folder = file.is_dir()
        except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, links in a circle
            raise UserError(f"{job.origin}: the output {str(job.output)!r} cannot be used: {error}") from None
        if is_folder:
            raise UserError(f"{job.origin}: the output {job.output} is a folder; name a file")
        if file in written:
            raise UserError(
                f"{job.origin}: the output {job.output} is that of {written[file]} too; give each its own"
            )
        written[file] = job.origin


def _mask(value: str | None) -> Path | str | None:
    if value is None or value == "none" or value.endswith(NO_MASK):
        return None
    return value if value == AUTO else Path(value)


def require_usable(jobs: Sequence[EditJob], config: SampleEditing) -> None:
    """Looks at every image, mask and output once, so that a bad one is found before the first edit."""
    for job in jobs:
        try:
            require_saveable(job.output)
            image = load_image(job.image)
            _region(job, image, config)
            require_saveable(job.output, image.size)
            if config.comparison:
                require_saveable(config.comparison, (3 * image.width, image.height))
        except UserError as error:
            raise UserError(f"{job.origin}: {error}" if job.origin else str(error)) from None


def _region(job: EditJob, image: Image.Image, config: EditSampleConfig) -> np.ndarray | str | None:
    if config.full_mask:
        return None
    if config.auto_mask or job.mask == AUTO:
        return AUTO
    if job.mask is None:
        return None
    return require_marked(load_edit_region(job.mask, image.size).numpy(), job.mask)


def edit_files(
    pipeline: EditingPipeline, jobs: Sequence[EditJob], config: EditSampleConfig, seeds: Sequence[int]
) -> list[EditResult]:
    """Edits one batch of files; results are not written."""
    images = [load_image(job.image) for job in jobs]
    masks = [_region(job, image, config) for job, image in zip(jobs, images, strict=True)]
    return pipeline.edit(
        images,
        [job.prompt for job in jobs],
        masks,
        seeds=seeds,
        **config.edit_options(),
    )


def comparison(source: Image.Image, result: EditResult) -> Image.Image:
    """Source, source with the untouched part faded, and result in a row."""
    pixels = np.asarray(source.convert("RGB"))
    faded = np.where(result.region.numpy()[..., None], pixels, (pixels.astype(int) + 2 * 255) // 3)
    row = np.concatenate([pixels, faded.astype(np.uint8), np.asarray(result.image)], axis=1)
    return like(row, source)


def main() -> None:
    config = parse(SampleEditing)
    jobs = read_jobs(config)
    require_usable(jobs, config)
    with distributed(config.device) as ranks:
        pipeline = config.load_pipeline(ranks.device)
        mine = list(enumerate(jobs))[ranks.rank :: ranks.world_size]
        with progress(total=len(mine), desc="editing", unit="image", disable=not ranks.is_main) as bar:
            for start in range(0, len(mine), config.batch_size):
                numbered = mine[start : start + config.batch_size]
                batch = [job for _, job in numbered]
                results = edit_files(
                    pipeline, batch, config, [config.seed + number for number, _ in numbered]
                )
                for job, result in zip(batch, results, strict=True):
                    save_picture(result.image, job.output)
                    if config.comparison:
                        save_picture(comparison(load_image(job.image), result), Path(config.comparison))
                bar.update(len(batch))
                if len(jobs) == 1:
                    _report(jobs[0], results[0])


def _report(job: EditJob, result: EditResult) -> None:
    seconds = ", ".join(f"{name} {value:.2f} s" for name, value in result.timings.items())
    log.info("%s: %d of %d cells, %s", job.output, result.edit_mask.sum(), len(result.codes), seconds)


if __name__ == "__main__":
    run_command(main)
