"""The flags of validation inside training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluations.flags import DINO_FILE
from runtime.config import legacy, option
from runtime.errors import UserError
from runtime.flags import scoring, shared
from runtime.flags.ranges import COUNT, PERIOD

VAL_DATASETS = ("magicbrush", "emuedit_test")
# What each set needs, by flag.
_NEEDED = {
    "magicbrush": ("magicbrush_json", "magicbrush_input_path", "gt_path", "caption_path"),
    "emuedit_test": ("emu_data_file", "valid_emuedit_test_data", "emuedit_gt_path", "emuedit_caption_path"),
}


@dataclass(frozen=True)
class ValidationConfig:
    """Which test sets are edited and scored while a model trains."""

    TOPICS: ClassVar[dict[str, str]] = {"validate_every": "validation"}

    validate_every: int = option(-1, within=PERIOD, help="steps between validations; -1 for none")
    val_dataset: str = option("magicbrush", help=f"comma-separated: {', '.join(VAL_DATASETS)}")
    val_global_batch_size: int = option(
        16, within=COUNT, help="edits at a time in validation, over all ranks"
    )
    magicbrush_json: str | None = option(None, help="MagicBrush: edit_sessions.json")
    with_t5_prompt: bool = shared.with_t5_prompt()
    instruction_based: bool = option(
        False, help="tell the model its instructions, not the descriptions of the results"
    )
    magicbrush_input_path: str | None = option(None, help="its images/")
    gt_path: str | None = option(None, help="its images/, as ground truth")
    caption_path: str | None = option(None, help="its local_descriptions.json")
    magicbrush_skip_iter: bool = option(False, help="single-turn edits only")
    enforce_validation_fake_masking: bool = option(False, help="regenerate every cell in its edits")
    metric: str = scoring.metric("its metrics")
    emu_data_file: str | None = option(None, help="Emu Edit: folder of test-*.parquet, or of prepared images")
    valid_emuedit_test_data: str | None = option(None, help="which of its items: emu_test_data.json")
    emuedit_gt_path: str | None = option(None, help="its images_valid/")
    emuedit_caption_path: str | None = option(None, help="its captions: emu_test_data.json")
    emuedit_metric: str = scoring.metric("its metrics")
    enforce_emu_validation_fake_masking: bool = option(
        False, help="regenerate every cell in its edits; so it is anyway, for the set has no masks"
    )
    clip_ckpt: str | None = scoring.clip_ckpt()
    dino_ckpt: str | None = scoring.dino_ckpt(DINO_FILE)

    magicbrush_output_dir: str = legacy("results go to --results-dir/samples-ckpt-<step>")
    load_data_type: str = legacy("the content of --emu_data_file says it: parquet files or images")
    emuedit_test_json: str = legacy("texts come from --valid_emuedit_test_data, encoded on the fly")

    def __post_init__(self) -> None:
        if self.validate_every <= 0:
            return
        for name in self.val_datasets():
            absent = [f"--{flag}" for flag in _NEEDED[name] if getattr(self, flag) is None]
            if absent:
                raise UserError(f"--val_dataset {name} with --validate_every needs {', '.join(absent)} too")

    def val_datasets(self) -> list[str]:
        """The sets to validate on; none if validation is off."""
        if self.validate_every <= 0:
            return []
        names = [name.strip() for name in self.val_dataset.split(",") if name.strip()]
        names = ["emuedit_test" if name == "emuedit" else name for name in names]
        unknown = [name for name in names if name not in VAL_DATASETS]
        if unknown or not names:
            raise UserError(
                f"--val_dataset {self.val_dataset!r}: choose from {', '.join(VAL_DATASETS)}, comma-separated"
            )
        return list(dict.fromkeys(names))
