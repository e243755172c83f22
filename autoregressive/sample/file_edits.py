"""Edits of single files and of lists: the work of sample_editing.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from autoregressive.editing.choices import AUTO
from autoregressive.editing.pictures import enlarge, outline_cells
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.results import EditResult
from autoregressive.sample.flags import PictureFlags, SampleEditing
from autoregressive.sample.jobs import run_jobs
from autoregressive.sample.loading import load_pipeline, note_unknown_words, require_marked
from dataset.records.images import as_seen, load_image, load_native
from dataset.records.jsonl import NO_MASK, JsonLine, JsonlRecords
from dataset.records.masks import load_edit_region
from dataset.records.own_pairs import find_own_pairs
from language.caption_cleaning import require_words
from runtime.distributed import distributed
from runtime.errors import UserError
from runtime.files import require_place, require_regular
from runtime.logging import get_logger
from runtime.pictures import like, require_saveable, save_picture

log = get_logger(__name__)


@dataclass(frozen=True)
class FileEdit:
    """One edit of a file, as flags or a line of a list ask for it."""

    image: Path
    mask: Path | str | None  # "auto" is no file
    prompt: str
    output: Path
    origin: str = ""  # file and line, of a list


def read_jobs(config: SampleEditing) -> list[FileEdit]:
    """The edits that the flags ask for."""
    if config.data is not None:
        return _own_jobs(config)
    if config.list is None:
        if config.image is None or config.prompt is None:
            raise UserError("give --image and --prompt for one edit, or --list for many")
        require_words(config.prompt, "--prompt")
        return [FileEdit(Path(config.image), as_mask(config.mask), config.prompt, Path(config.output))]
    path = Path(config.list)
    require_regular(path, "a list")
    if not path.is_file():
        raise UserError(f"--list {path} does not exist")
    # The list is the user's own and says where results go: its paths may lead anywhere.
    jobs = list(JsonlRecords([path], _read_job, allow_outside_root=True))
    _require_own_outputs(jobs)
    return jobs


def _own_jobs(config: SampleEditing) -> list[FileEdit]:
    """An edit of each source of own pairs; told the caption if it is what zero-shot models want."""
    zero_shot, jobs = config.mode == "zero_shot", []
    pairs = find_own_pairs(config.data)
    own = {file.resolve() for pair in pairs for file in (pair.source, pair.edited, pair.mask) if file}
    for pair in pairs:
        if zero_shot and pair.caption is None:
            raise UserError(f"{config.data}: {pair.name!r} has no caption of the result for --mode zero_shot")
        prompt = pair.caption if zero_shot else pair.prompt
        require_words(prompt, f"{config.data}: {pair.name}")
        output = Path(config.output_dir) / f"{pair.name}.png"
        if output.resolve() in own:
            raise UserError(
                f"--output-dir: {output} is a picture of --data {config.data}: give another folder"
            )
        jobs.append(FileEdit(pair.source, pair.mask, prompt, output, pair.name))
    return jobs


def _read_job(line: JsonLine) -> FileEdit:
    prompt, output = line.text("prompt"), line.text("output")
    require_words(prompt, line.origin)
    line.refuse_training_key()
    value = line.values.get("mask")
    mask = value if value in (None, AUTO) else line.mask_path("mask")
    job = FileEdit(line.path("image"), mask, prompt, line.file.parent / output, line.origin)
    line.require_files(job.image, job.mask)
    return job


def _require_own_outputs(jobs: Sequence[FileEdit]) -> None:
    """Raises `UserError` where two lines would write one file, one a folder, or one what another reads."""
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
    for job in jobs:
        for file in filter(None, (job.image, None if job.mask == AUTO else job.mask)):
            writer = written.get(file.resolve(), job.origin)
            if writer != job.origin:  # a line may edit its picture in place
                raise UserError(
                    f"{job.origin}: reads {file}, which is the output of {writer}; what it finds there would "
                    "hang on the batch: give that output another name"
                )


def as_mask(value: str | None) -> Path | str | None:
    """What `--mask` names: a file, "auto", or None for all of the picture."""
    if value is None or value == "none" or value.endswith(NO_MASK):
        return None
    return value if value == AUTO else Path(value)


def require_usable(jobs: Sequence[FileEdit], config: PictureFlags) -> None:
    """Looks at every image, mask and output once, so that a bad one is found before the first edit."""
    for job in jobs:
        try:
            require_saveable(job.output)
            require_place(job.output)
            image = _load(job, config)
            _region(job, image, config)
            require_saveable(job.output, image.size, image.mode)
            if config.comparison:
                require_saveable(config.comparison, (3 * image.width, image.height))
        except UserError as error:
            raise UserError(f"{job.origin}: {error}" if job.origin else str(error)) from None


def _load(job: FileEdit, config: PictureFlags) -> Image.Image:
    return load_image(job.image) if config.crop == "none" else load_native(job.image)


def _region(job: FileEdit, image: Image.Image, config: PictureFlags) -> np.ndarray | str | None:
    if config.full_mask:
        return None
    if config.auto_mask or job.mask == AUTO:
        return AUTO
    if job.mask is None:
        return None
    return require_marked(load_edit_region(job.mask, image.size).numpy(), job.mask)


def edit_files(
    pipeline: EditingPipeline, jobs: Sequence[FileEdit], config: PictureFlags, seeds: Sequence[int]
) -> list[EditResult]:
    """Edits one batch of files; results are not written."""
    images = [_load(job, config) for job in jobs]
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
    row = np.concatenate([pixels, faded.astype(np.uint8), np.asarray(as_seen(result.image))], axis=1)
    return like(row, source)


def seen_crops(result: EditResult, grid: int) -> Image.Image:
    """What the model saw, each crop enlarged and with a line around its cells, in a row."""
    crops = [outline_cells(enlarge(crop.seen, 512), crop.edit_mask, grid) for crop in result.crops]
    return Image.fromarray(np.concatenate([np.asarray(crop) for crop in crops], axis=1))


def edit_all(config: SampleEditing) -> None:
    """Makes the edits that the flags ask for."""
    run_edits(read_jobs(config), config)


def run_edits(jobs: Sequence[FileEdit], config: PictureFlags) -> None:
    """Makes edits; each is written as soon as its batch is done.

    Args:
      config: how; with pictures beside the result, it is a single edit.
    Raises:
      UserError: models, pictures or masks that cannot be used; names them, before the first edit.
    """
    require_usable(jobs, config)
    with distributed(config.device) as ranks:
        pipeline = load_pipeline(config, ranks.device)
        if ranks.is_main:
            note_unknown_words(pipeline, [job.prompt for job in jobs])

        def make(numbered: Sequence[tuple[int, FileEdit]]) -> None:
            batch = [job for _, job in numbered]
            results = edit_files(pipeline, batch, config, [config.seed + number for number, _ in numbered])
            for job, result in zip(batch, results, strict=True):
                # Before the output, which may be the picture's own file.
                beside = comparison(load_image(job.image), result) if config.comparison else None
                save_picture(result.image, job.output)
                if beside is not None:
                    save_picture(beside, Path(config.comparison))
                if config.save_crop:
                    save_picture(seen_crops(result, pipeline.grid), Path(config.save_crop))
            if len(jobs) == 1:
                _report(jobs[0], results[0])

        run_jobs(list(enumerate(jobs)), config.batch_size, ranks, make, desc="editing", unit="image")


def _report(job: FileEdit, result: EditResult) -> None:
    parts = ", ".join(f"{name} {value:.2f}" for name, value in result.timings.items())
    cells, seconds = sum(len(crop.codes) for crop in result.crops), sum(result.timings.values())
    log.info(
        "%s: %d of %d cells redrawn in %.2f s (%s)", job.output, result.num_tokens, cells, seconds, parts
    )
