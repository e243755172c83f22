"""Edits the Emu Edit test set: every cell regenerated, as the set has no masks, or with --auto-mask.

    python autoregressive/sample/sample_emu_edit.py --vq-ckpt vq.pt --gpt-ckpt nep.pt --t5-path t5 \\
        --emu-path emu_edit_test_set --valid-list assets/emu_test_data.json --output-dir results/emu

Writes `samples/<idx>.png` and `samples.json`; under torchrun the ranks share the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from PIL import Image

from autoregressive.sample.common import EditSampleConfig
from autoregressive.sample.edit_run import EditFolders, EditRun, write_ceiling
from autoregressive.sample.edit_sets import emu_jobs, emu_sha256, with_output_caption, without_masks
from dataset.testsets.emu_edit import read_emu
from runtime.config import REQUIRED, dump_config, option, parse
from runtime.distributed import Distributed, distributed
from runtime.errors import run_command

PUBLISHED_RESAMPLING = Image.Resampling.BICUBIC  # of the sources; the other published programs are bilinear


@dataclass(frozen=True)
class SampleEmuEdit(EditSampleConfig):
    """Edits the Emu Edit test set."""

    TOPICS: ClassVar[dict[str, str]] = {"emu_path": "the test set"}

    emu_path: str = option(
        REQUIRED,
        help="folder of the hub's parquet files, or of images/ or images_valid/",
        aliases=["emu_data_file"],
    )
    valid_list: str | None = option(
        None,
        help="emu_test_data.json: which items; without it all that the parquet files hold",
        aliases=["valid_emuedit_test_data"],
    )
    text: str = option(
        "instruction",
        help="what the model is told: the instruction, or the description of the result (output_caption)",
        choices=["instruction", "global"],
    )
    split: str = option("test", help="which parquet files", choices=["test", "validation"])
    output_dir: str = option(REQUIRED, help="folder for the results")
    write_ceiling: bool = option(False, help="also pass the sources through the tokenizer, into ceiling/")


def sample(config: SampleEmuEdit, ranks: Distributed) -> None:
    root = Path(config.output_dir)
    if ranks.is_main:
        dump_config(config, root)
    items = read_emu(config.emu_path, config.valid_list, config.split)
    if config.text == "global":
        items = list(map(with_output_caption, items))
    pipeline = config.load_pipeline(ranks.device)
    settings = config.settings(pipeline.text_encoder) | {"test_set_sha256": emu_sha256(items)}
    folders = EditFolders(root / "samples", root)
    run = EditRun(pipeline, folders, settings, config.edit_options(), config.seed, PUBLISHED_RESAMPLING)
    jobs = emu_jobs(items)
    if config.auto_mask:
        (jobs,) = without_masks([jobs])
    made = run.make(
        [jobs[ranks.rank :: ranks.world_size]], {job.key for job in jobs}, config.batch_size, ranks
    )
    if config.write_ceiling:
        images = [(item.source_path, root / "ceiling" / f"{item.idx}.png") for item in items]
        write_ceiling(pipeline, images, config.batch_size, ranks, anew=made, resampling=PUBLISHED_RESAMPLING)


def main() -> None:
    config = parse(SampleEmuEdit)
    with distributed(config.device) as ranks:
        sample(config, ranks)


if __name__ == "__main__":
    run_command(main)
