"""Edits a whole test set in MagicBrush's format, single-turn and multi-turn, for the evaluator.

python autoregressive/sample/sample_magicbrush.py --vq-ckpt vq.pt --gpt-ckpt nep.pt --t5-path t5 \
    --magicbrush-path data/shapes/test --output-dir results/edits

Writes `images/<id>/<id>_1.png`, `<id>_inde_k.png` (turn k alone) and `<id>_iter_k.png` (after the model's own
turn k-1), the region each edit was free to change under `regions/`, and `samples.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from autoregressive.sample.common import EditSampleConfig
from autoregressive.sample.edit_run import EditFolders, EditRun, write_ceiling
from autoregressive.sample.edit_sets import (
    TURNS,
    Sessions,
    keys_of,
    magicbrush_rounds,
    magicbrush_sha256,
    without_masks,
)
from dataset.testsets.magicbrush import iterate_turns, read_descriptions, read_sessions
from runtime.config import REQUIRED, dump_config, option, parse
from runtime.distributed import Distributed, distributed
from runtime.errors import run_command
from runtime.files import without_mac_metadata


@dataclass(frozen=True)
class SampleMagicBrush(EditSampleConfig):
    """Edits a test set in MagicBrush's format."""

    TOPICS: ClassVar[dict[str, str]] = {"magicbrush_path": "the test set"}

    magicbrush_path: str = option(REQUIRED, help="test set: edit_sessions.json and images/")
    output_dir: str = option(REQUIRED, help="folder for the results")
    turns: str = option("both", help="which edits to make", choices=TURNS)
    text: str = option(
        "instruction",
        help="what the model is told: the instruction, or the description of the result",
        choices=["instruction", "global", "local"],
    )
    with_t5_prompt: bool = option(
        False, help="instructions come as features: edit_sessions_with_instruction_t5.json"
    )
    allow_outside_root: bool = option(False, help="let the test set name files outside its folder")
    write_ceiling: bool = option(
        False, help="also pass the true outputs through the tokenizer, into ceiling/"
    )

    @property
    def from_features(self) -> bool:
        return self.with_t5_prompt and self.text == "instruction"


def settings_of(config: SampleMagicBrush, sessions: Sessions, text_encoder) -> dict[str, Any]:
    """What the results depend on, with hashes of the weights and of the test set."""
    json_files = without_mac_metadata(Path(config.magicbrush_path).glob("*.json"))
    return config.settings(text_encoder) | {"test_set_sha256": magicbrush_sha256(sessions, json_files)}


def sample(config: SampleMagicBrush, ranks: Distributed) -> None:
    root = Path(config.output_dir)
    if ranks.is_main:
        dump_config(config, root)
    sessions = read_sessions(config.magicbrush_path, config.with_t5_prompt, config.allow_outside_root)
    descriptions = None
    if config.text != "instruction":
        descriptions = read_descriptions(config.magicbrush_path, config.text)
    pipeline = config.load_pipeline(ranks.device, with_text_encoder=not config.from_features)
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


def main() -> None:
    config = parse(SampleMagicBrush)
    with distributed(config.device) as ranks:
        sample(config, ranks)


if __name__ == "__main__":
    run_command(main)
