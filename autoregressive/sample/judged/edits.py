"""The work of sample_judged.py, whose head explains it."""

from __future__ import annotations

from pathlib import Path

from autoregressive.sample.edit_run import EditFolders, EditRun, KeyedEdit
from autoregressive.sample.edit_sets import edits_sha256, keys_of, without_masks
from autoregressive.sample.flags import SampleJudged
from autoregressive.sample.jobs import run_jobs
from autoregressive.sample.loading import load_pipeline
from dataset.records.images import load_image
from dataset.testsets.judged import JudgedItem, imgedit_listing, read_gedit, read_imgedit_bench
from runtime.config import dump_config
from runtime.distributed import Distributed
from runtime.files import write_atomic
from runtime.pictures import save_picture


def sample_judged(config: SampleJudged, ranks: Distributed) -> None:
    """Makes this rank's share of the edits of a benchmark, and what its judges read beside them."""
    root = Path(config.output_dir)
    if ranks.is_main:
        dump_config(config, root)
    is_gedit = config.benchmark == "gedit"
    listing = Path(config.edit_json) if config.edit_json else imgedit_listing(config.data_path)
    items = (
        read_gedit(config.data_path, config.languages)
        if is_gedit
        else read_imgedit_bench(config.data_path, listing)
    )
    pipeline = load_pipeline(config, ranks.device)
    named = [(item.key, item.instruction, item.source) for item in items]
    settings = config.settings(pipeline.text_encoder) | {"test_set_sha256": edits_sha256(named)}
    folders = EditFolders(root if is_gedit else root / "images", root)
    run = EditRun(pipeline, folders, settings, config.edit_options(), config.seed)
    jobs = [KeyedEdit(item.key, item.source, lambda item=item: item.instruction, None) for item in items]
    if config.auto_mask:
        (jobs,) = without_masks([jobs])
    run.make([jobs[ranks.rank :: ranks.world_size]], keys_of([jobs]), config.batch_size, ranks)
    if is_gedit:
        _write_shown(items, root, config.batch_size, ranks)
    elif ranks.is_main:
        data = listing.read_bytes()
        write_atomic(root / "edits.json", lambda temporary: temporary.write_bytes(data))
    ranks.barrier()


def _write_shown(items: list[JudgedItem], root: Path, batch_size: int, ranks: Distributed) -> None:
    """Copies of the pictures before; those that are there are left alone."""

    def make(batch: list[JudgedItem]) -> None:
        for item in batch:
            save_picture(load_image(item.shown), root / item.shown_key)

    def is_done(item: JudgedItem) -> bool:
        return (root / item.shown_key).exists()

    run_jobs(items, batch_size, ranks, make, desc="pictures before", unit="image", is_done=is_done)
