"""Edits a whole test set in MagicBrush's format, single-turn and multi-turn, for the evaluator.

python autoregressive/sample/sample_magicbrush.py --vq-ckpt vq.pt --gpt-ckpt nep.pt --t5-path t5 \
    --magicbrush-path data/shapes/test --output-dir results/edits

Writes `images/<id>/<id>_1.png`, `<id>_inde_k.png` (turn k alone) and `<id>_iter_k.png` (after the model's own
turn k-1), the region each edit was free to change under `regions/`, and `samples.json`.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from autoregressive.pipeline import EditingPipeline
from autoregressive.sample.common import EditSampleConfig
from dataset.images import load_image, load_magicbrush_mask, save_png
from dataset.magicbrush import Turn, iterate_turns, read_descriptions, read_sessions
from dataset.samples import Text, load_text
from language.t5 import T5Encoder
from runtime.checkpoint import file_sha256, write_atomic
from runtime.config import REQUIRED, option, parse
from runtime.distributed import Distributed, distributed
from runtime.errors import UserError, run_command
from runtime.logging import get_logger, progress

log = get_logger(__name__)
NOT_SETTINGS = ("output_dir", "device", "batch_size")


@dataclass(frozen=True)
class SampleMagicBrush(EditSampleConfig):
    """Edits a test set in MagicBrush's format."""

    magicbrush_path: str = option(REQUIRED, help="test set: edit_sessions.json and images/")
    output_dir: str = option(REQUIRED, help="folder for the results")
    turns: str = option("both", help="which edits to make", choices=["both", "single", "multi"])
    text: str = option(
        "instruction",
        help="what the model is told: the instruction, or the description of the result",
        choices=["instruction", "global", "local"],
    )
    with_t5_prompt: bool = option(
        False, help="instructions come as features: edit_sessions_with_instruction_t5.json"
    )
    write_ceiling: bool = option(
        False, help="also pass the true outputs through the tokenizer, into ceiling/"
    )


@dataclass(frozen=True)
class Job:
    """One edit: `turn` done to the image at `input_path`, written to `<id>/<name>.png`."""

    turn: Turn
    input_path: Path
    name: str

    @property
    def key(self) -> str:
        return f"{self.turn.session_id}/{self.name}.png"


def plan(sessions: dict[str, list[Turn]], turns: str, images: Path) -> Iterator[list[Job]]:
    """Rounds of edits: those of one round need only the images of the rounds before."""
    first, alone = [], []
    for turn in iterate_turns(sessions):
        name = f"{turn.session_id}_1" if turn.number == 1 else f"{turn.session_id}_inde_{turn.number}"
        (first if turn.number == 1 else alone).append(Job(turn, turn.input_path, name))
    yield first + (alone if turns != "multi" else [])
    longest = max(len(s) for s in sessions.values()) if turns != "single" else 1
    for number in range(2, longest + 1):
        jobs = []
        for session_id, session in sessions.items():
            if number <= len(session):
                before = f"{session_id}_1" if number == 2 else f"{session_id}_iter_{number - 1}"
                jobs.append(
                    Job(
                        session[number - 1],
                        images / session_id / f"{before}.png",
                        f"{session_id}_iter_{number}",
                    )
                )
        yield jobs


class Sampler:
    """Makes the edits of one rank."""

    def __init__(self, pipeline: EditingPipeline, config: SampleMagicBrush) -> None:
        self.pipeline, self.config = pipeline, config
        self.root = Path(config.output_dir)
        self.descriptions = None
        if config.text != "instruction":
            self.descriptions = read_descriptions(config.magicbrush_path, config.text)

    def text_of(self, turn: Turn) -> Text:
        if self.descriptions is None:
            width = self.pipeline.transformer.config.caption_dim if self.config.with_t5_prompt else None
            origin = f"session {turn.session_id} turn {turn.number}"
            return load_text(turn.instruction, turn.text_feature_path, width, origin)
        try:
            return self.descriptions[turn.session_id][turn.output_path.name]
        except KeyError as error:
            raise UserError(
                f"{self.config.text}_descriptions.json has no text for {turn.output_path.name} of session "
                f"{turn.session_id}"
            ) from error

    def run(self, jobs: list[Job]) -> dict[str, dict]:
        """Edits one batch and writes it; returns its entries of samples.json."""
        config = self.config
        images = [load_image(job.input_path) for job in jobs]
        masks: list[np.ndarray | None] = [None] * len(jobs)
        if not config.full_mask:
            masks = [load_magicbrush_mask(job.turn.mask_path) for job in jobs]
        results = self.pipeline.edit(
            images,
            [self.text_of(job.turn) for job in jobs],
            [None if m is None else _fit(m, i) for m, i in zip(masks, images, strict=True)],
            # From the name, so that a subset or another number of ranks changes no result.
            seeds=[zlib.crc32(f"{config.seed} {job.key}".encode()) for job in jobs],
            **config.edit_settings(),
        )
        entries = {}
        for job, result in zip(jobs, results, strict=True):
            save_png(result.image, self.root / "images" / job.key)
            region = Image.fromarray(result.region.numpy().astype(np.uint8) * 255)
            save_png(region, self.root / "regions" / job.key)
            entries[job.key] = {
                "input": str(job.input_path),
                "tokens": int(result.edit_mask.sum()),
                "seconds": sum(result.timings.values()) / len(jobs),
            }
        return entries

    def ceiling(self, turns: list[Turn]) -> None:
        """Writes the true outputs as the tokenizer gives them back."""
        images = [load_image(turn.output_path) for turn in turns]
        decoded = self.pipeline.decode(self.pipeline.encode(images))
        for turn, image, through in zip(turns, images, decoded, strict=True):
            if through.size != image.size:
                through = through.resize(image.size, Image.Resampling.BICUBIC)
            save_png(through, self.root / "ceiling" / turn.session_id / turn.output_path.name)


def _fit(mask: np.ndarray, image: Image.Image) -> np.ndarray:
    """Some published masks differ from their image in resolution: nearest neighbour to its size."""
    if mask.shape == (image.height, image.width):
        return mask
    picture = Image.fromarray((mask > 0.5).astype(np.uint8) * 255)
    return np.asarray(picture.resize(image.size, Image.Resampling.NEAREST)) > 127


def settings_of(
    config: SampleMagicBrush, sessions: dict[str, list[Turn]], text_encoder: T5Encoder | None
) -> tuple[dict, str]:
    """What the results depend on, with hashes of the weights and of the test set; and a hash of all that."""
    settings = {k: v for k, v in asdict(config).items() if k not in NOT_SETTINGS}
    for name in ("vq_ckpt", "gpt_ckpt"):
        settings[f"{name}_sha256"] = file_sha256(getattr(config, name))
    settings["text_encoder"] = text_encoder and text_encoder.fingerprint()
    read = sorted(Path(config.magicbrush_path).glob("*.json"))
    read += [path for turn in iterate_turns(sessions) for path in turn.paths()]
    settings["test_set_sha256"] = hashlib.sha256("".join(map(file_sha256, read)).encode()).hexdigest()
    return settings, hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def already_done(path: Path, settings_hash: str, keys: set[str]) -> bool:
    """True if `samples.json` lists exactly these edits, made with these settings, and all are there."""
    if not path.exists():
        return False
    try:
        samples = json.loads(path.read_text())
        listed = set(samples["edits"])
        same = samples["settings_hash"] == settings_hash and listed == keys
    except (json.JSONDecodeError, KeyError, TypeError):
        return False
    return same and all((path.parent / "images" / key).exists() for key in keys)


def sample(config: SampleMagicBrush, ranks: Distributed) -> None:
    root = Path(config.output_dir)
    sessions = read_sessions(config.magicbrush_path, config.with_t5_prompt)
    keys = {job.key for jobs in plan(sessions, config.turns, root / "images") for job in jobs}
    from_features = config.with_t5_prompt and config.text == "instruction"
    pipeline = config.load_pipeline(ranks.device, with_text_encoder=not from_features)
    settings, settings_hash = settings_of(config, sessions, pipeline.text_encoder)
    if already_done(root / "samples.json", settings_hash, keys):
        log.info("%s holds these %d edits with these settings already", root, len(keys))
        return
    sampler = Sampler(pipeline, config)
    mine = {i: sessions[i] for i in list(sessions)[ranks.rank :: ranks.world_size]}
    rounds = list(plan(mine, config.turns, root / "images")) if mine else []
    entries: dict[str, dict] = {}
    total = sum(map(len, rounds))
    with progress(total=total, desc="editing", unit="edit", disable=not ranks.is_main) as bar:
        for jobs in rounds:
            for start in range(0, len(jobs), config.batch_size):
                batch = jobs[start : start + config.batch_size]
                entries |= sampler.run(batch)
                bar.update(len(batch))
    if config.write_ceiling:
        turns = list(iterate_turns(mine))
        for start in range(0, len(turns), config.batch_size):
            sampler.ceiling(turns[start : start + config.batch_size])
    gathered = ranks.gather_objects(entries)
    if ranks.is_main:
        edits = {key: entry for part in gathered for key, entry in part.items()}
        content = {"settings": settings, "settings_hash": settings_hash, "edits": edits}
        write_atomic(
            root / "samples.json", lambda temporary: temporary.write_text(json.dumps(content, indent=1))
        )
        log.info("%d edits in %s", len(edits), root)
    ranks.barrier()


def main() -> None:
    config = parse(SampleMagicBrush)
    with distributed(config.device) as ranks:
        sample(config, ranks)


if __name__ == "__main__":
    run_command(main)
