"""The work of sample_magicbrush.py and sample_emu_edit.py, whose heads explain it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoregressive.sample.edit_run import EditFolders, EditRun, write_ceiling
from autoregressive.sample.edit_sets import (
    EMU_RESAMPLING,
    Sessions,
    emu_jobs,
    emu_sha256,
    keys_of,
    magicbrush_rounds,
    magicbrush_sha256,
    with_output_caption,
    without_masks,
)
from autoregressive.sample.flags import SampleEmuEdit, SampleMagicBrush
from autoregressive.sample.loading import load_pipeline
from dataset.testsets.emu_edit import read_emu
from dataset.testsets.magicbrush import iterate_turns, read_descriptions, read_sessions
from language.t5 import T5Encoder
from runtime.config import dump_config
from runtime.distributed import Distributed
from runtime.files import without_mac_metadata


def settings_of(
    config: SampleMagicBrush, sessions: Sessions, text_encoder: T5Encoder | None
) -> dict[str, Any]:
    """What the results depend on, with hashes of the weights and of the test set."""
    json_files = without_mac_metadata(Path(config.magicbrush_path).glob("*.json"))
    return config.settings(text_encoder) | {"test_set_sha256": magicbrush_sha256(sessions, json_files)}


def sample_magicbrush(config: SampleMagicBrush, ranks: Distributed) -> None:
    """Makes this rank's share of the edits of a test set in MagicBrush's format."""
    root = Path(config.output_dir)
    if ranks.is_main:
        dump_config(config, root)
    sessions = read_sessions(config.magicbrush_path, config.with_t5_prompt, config.allow_outside_root)
    descriptions = None
    if config.text != "instruction":
        descriptions = read_descriptions(config.magicbrush_path, config.text)
    pipeline = load_pipeline(config, ranks.device, with_text_encoder=not config.from_features)
    folders = EditFolders(root / "images", root)
    settings = settings_of(config, sessions, pipeline.text_encoder)
    run = EditRun(pipeline, folders, settings, config.edit_options(), config.seed)

    def rounds_of(some: Sessions):
        rounds = magicbrush_rounds(
            some,
            config.turns,
            folders.images,
            full_mask=config.full_mask,
            descriptions=descriptions,
            width=pipeline.transformer.config.caption_dim if config.from_features else None,
        )
        return without_masks(rounds) if config.auto_mask else rounds

    mine = {i: sessions[i] for i in list(sessions)[ranks.rank :: ranks.world_size]}
    made = run.make(rounds_of(mine), keys_of(rounds_of(sessions)), config.batch_size, ranks)
    if config.write_ceiling:
        images = [
            (turn.output_path, root / "ceiling" / turn.session_id / turn.output_path.name)
            for turn in iterate_turns(sessions)
        ]
        write_ceiling(pipeline, images, config.batch_size, ranks, anew=made)


def sample_emu_edit(config: SampleEmuEdit, ranks: Distributed) -> None:
    """Makes this rank's share of the edits of Emu Edit's test set."""
    root = Path(config.output_dir)
    if ranks.is_main:
        dump_config(config, root)
    items = read_emu(config.emu_path, config.valid_list, config.split)
    if config.text == "global":
        items = list(map(with_output_caption, items))
    pipeline = load_pipeline(config, ranks.device)
    settings = config.settings(pipeline.text_encoder) | {"test_set_sha256": emu_sha256(items)}
    folders = EditFolders(root / "samples", root)
    run = EditRun(pipeline, folders, settings, config.edit_options(), config.seed, EMU_RESAMPLING)
    jobs = emu_jobs(items)
    if config.auto_mask:
        (jobs,) = without_masks([jobs])
    mine = [jobs[ranks.rank :: ranks.world_size]]
    made = run.make(mine, keys_of([jobs]), config.batch_size, ranks)
    if config.write_ceiling:
        images = [(item.source_path, root / "ceiling" / f"{item.idx}.png") for item in items]
        write_ceiling(pipeline, images, config.batch_size, ranks, anew=made, resampling=EMU_RESAMPLING)
