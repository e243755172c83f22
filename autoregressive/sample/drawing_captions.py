"""An image for each caption of a list: the work of sample_t2i_ddp.py, whose head explains it."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.models.config import identity_of, model_name
from autoregressive.models.weights import POSITION_TABLE
from autoregressive.sample.drawing import DrawJob, draw_jobs
from autoregressive.sample.flags import SampleT2IDDP
from autoregressive.sample.loading import load_pipeline
from dataset.records.tables import tsv_rows
from language.caption_cleaning import require_words
from runtime.checkpoint import checkpoint_args, load_checkpoint
from runtime.distributed import Distributed, distributed
from runtime.errors import UserError
from runtime.files import require_regular
from runtime.logging import get_logger
from runtime.texts import decode_text, one_a_line, write_json, write_text

log = get_logger(__name__)
# What a published file that does not say so holds.
PUBLISHED_MODEL, PUBLISHED_SIZE = "GPT-XL", 512


def read_captions(path: str | Path) -> list[str]:
    """The column Prompt of a tab-separated file.

    Raises:
      UserError: it cannot be read, or a caption says nothing; names the line.
    """
    require_regular(path, "a list of prompts")
    try:
        text = decode_text(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"--prompt-csv {path}: cannot be read: {error.strerror}") from None
    except UserError as error:
        raise UserError(f"--prompt-csv {path}: not a tab-separated UTF-8 file: {error}") from None
    rows = tsv_rows(text, str(path))
    _, header = next(rows, (0, []))
    if "Prompt" not in header:
        raise UserError(f"{path}: no column Prompt, but {', '.join(header or ['nothing'])}")
    if header.count("Prompt") > 1:
        raise UserError(f"{path}: has the column Prompt twice; keep one of them")
    column = header.index("Prompt")
    captions = [(line, fields[column] if column < len(fields) else None) for line, fields in rows]
    for line, caption in captions:
        if caption is None:
            raise UserError(f"{path} line {line}: no value in the column Prompt")
        require_words(caption, f"{path} line {line}")
    if not captions:
        raise UserError(f"{path}: no captions")
    return [caption for _, caption in captions]


def load(config: SampleT2IDDP, ranks: Distributed) -> tuple[EditingPipeline, str]:
    """The models, and the transformer's name."""
    content = load_checkpoint(config.gpt_ckpt)
    args, size = checkpoint_args(content), config.image_size
    is_ours = "model_config" in args  # then the file knows all of it, and a name need only not contradict
    name = config.gpt_model or args.get("gpt_model") or (None if is_ours else PUBLISHED_MODEL)
    if not is_ours and POSITION_TABLE not in content["model"]:
        size = size or args.get("image_size", PUBLISHED_SIZE)
    given = replace(config, gpt_model=config.gpt_model if is_ours else name, image_size=size)
    pipeline = load_pipeline(given, ranks.device)
    return pipeline, name or model_name(identity_of(pipeline.transformer.config)) or "transformer"


def folder_of(config: SampleT2IDDP, gpt_model: str, image_size: int) -> Path:
    """The run's folder, named as published; what the published program lacks is added if it is used."""
    checkpoint = Path(config.gpt_ckpt).name.replace(".pth", "").replace(".pt", "")
    prompts = Path(config.prompt_csv).name.split(".")[0].lower()
    added = f"-order-{config.order}" if config.order != "raster" else ""
    added += f"-interval-{config.cfg_interval}" if config.cfg_interval >= 0 else ""
    added += "-greedy" if config.greedy else ""
    return Path(config.sample_dir) / (
        f"{gpt_model}-{checkpoint}-{prompts}-size-{image_size}-size-{image_size}-{config.vq_model}-"
        f"topk-{config.top_k}-topp-{config.top_p}-temperature-{config.temperature}-"
        f"cfg-{config.cfg_scale}-seed-{config.seed}{added}"
    )


def settings_of(config: SampleT2IDDP, pipeline: EditingPipeline, captions: list[str]) -> dict[str, Any]:
    """What the images depend on."""
    digest = hashlib.sha256(json.dumps(captions).encode()).hexdigest()
    return config.settings(pipeline.text_encoder) | {"captions_sha256": digest}


def claim(folder: Path, settings: dict[str, Any], num_images: int, ranks: Distributed) -> None:
    """Makes the folder that of these settings; images of other settings are deleted.

    Raises:
      UserError: it holds images that nothing is known of, or more than this run would make.
    """
    note = folder / "settings.json"
    images = [path for path in (folder / "images").glob("*.png") if path.stem.isdecimal()]
    found = _read(note)
    if images and found is None:
        raise UserError(f"{folder} holds images of unknown settings: choose another --sample-dir")
    if found == settings and any(int(path.stem) >= num_images for path in images):
        raise UserError(
            f"{folder} holds {len(images)} images, more than the {num_images} asked for: raise "
            "--num-fid-samples or choose another --sample-dir"
        )
    ranks.barrier()  # nobody may change the folder before all have looked
    if ranks.is_main:
        for name in ("captions.txt", "result.jsonl"):
            (folder / name).unlink(missing_ok=True)
        if found not in (None, settings):
            different = [key for key in {**settings, **found} if found.get(key) != settings.get(key)]
            log.warning("%s: other %s; images are made anew", folder, ", ".join(different))
            for path in images:
                path.unlink()
        write_json(note, settings)
    ranks.barrier()


def _read(note: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(note.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def sample(config: SampleT2IDDP, ranks: Distributed) -> Path:
    """Draws what is missing and returns the run's folder."""
    captions = read_captions(config.prompt_csv)
    pipeline, gpt_model = load(config, ranks)
    folder = folder_of(config, gpt_model, pipeline.image_size)
    settings = settings_of(config, pipeline, captions)
    captions = captions[: config.num_fid_samples]
    claim(folder, settings, len(captions), ranks)
    jobs = [
        DrawJob(text, zlib.crc32(f"{config.seed} {i}".encode()), folder / "images" / f"{i:06d}.png")
        for i, text in enumerate(captions)
    ]
    draw_jobs(pipeline, jobs, config, ranks, keep_whole=True)
    ranks.barrier()
    if ranks.is_main:
        write_lists(folder, jobs)
    ranks.barrier()
    return folder


def write_lists(folder: Path, jobs: list[DrawJob]) -> None:
    """Writes `captions.txt`, one line an image whatever the caption, and `result.jsonl`."""
    captions = one_a_line(job.text for job in jobs)
    items = "".join(json.dumps({"text": job.text, "image_path": str(job.path)}) + "\n" for job in jobs)
    for name, text in (("captions.txt", captions), ("result.jsonl", items)):
        write_text(folder / name, text)
    log.info("%d images in %s", len(jobs), folder / "images")


def draw_captions(config: SampleT2IDDP) -> None:
    """Draws the list and prints the run's folder."""
    with distributed(config.device) as ranks:
        folder = sample(config, ranks)
    if ranks.is_main:
        print(folder)
