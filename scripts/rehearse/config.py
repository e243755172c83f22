"""The published training commands, and the flags with which they are rehearsed."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoregressive.models.config import GPT_MODELS
from runtime.config import option
from runtime.errors import UserError
from runtime.flags import models, shared, training
from runtime.flags.ranges import COUNT

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = {
    "stage1_256": """
torchrun --nproc_per_node=8 autoregressive/train/train_t2i.py --vq-ckpt ./pretrained_models/vq_ds16_t2i.pt
--data-paths a.jsonl b.jsonl --init-gpt-ckpt pretrained_models/t2i_XL_stage1_256.pt --results-dir R
--ckpt-every 10000 --max_checkpoints 3 --image-size 256 --gpt-model R-GPT-XL --global-batch-size 360
--epochs 2 --lr 1e-4""",
    "stage2_256": """
torchrun --nproc_per_node=4 autoregressive/train/train_editing.py --vq-ckpt ./pretrained_models/vq_ds16_t2i.pt
--data-path ultraedit.jsonl --dataset editing_ultraedit --init-gpt-ckpt RLlamaGen.pt --results-dir R
--image-size 256 --gpt-model R-GPT-XL --mask_in_context --global-batch-size 16 --epochs 10 --lr 1e-4
--validate_every -1 --ckpt-every 10000""",
    "stage2_512": """
torchrun --nproc_per_node=4 autoregressive/train/train_editing.py --vq-ckpt ./pretrained_models/vq_ds16_t2i.pt
--data-path ultraedit.jsonl --dataset editing_ultraedit --init-gpt-ckpt NEP_256.pt --results-dir R
--ckpt-every 2000 --no_epoch_save --image-size 512 --gpt-model GPT-XL-RAR --mask_in_context
--global-batch-size 16 --epochs 1 --lr 1e-5 --val_dataset magicbrush,emuedit_test --validate_every 2000
--magicbrush_json edit_sessions_with_instruction_t5.json --with_t5_prompt
--magicbrush_input_path test/images --gt_path test/images --caption_path test/local_descriptions.json
--emu_data_file emu_edit_test_set/data --valid_emuedit_test_data assets/emu_test_data.json
--emuedit_gt_path images_valid --emuedit_caption_path assets/emu_test_data.json
--enforce_emu_validation_fake_masking --val-global-batch-size 16 --early-stop 2001""",
}
ADDED = "--activation-checkpointing --num-workers 0 --log-every 1"
STEPS = {"stage1_256": 2, "stage2_256": 2, "stage2_512": 3}
VALIDATED_STEP = 2
# The names under which the published commands look for each other's results.
HANDED_ON = {"stage1_256": "RLlamaGen.pt", "stage2_256": "NEP_256.pt"}
NUM_TEST_ITEMS = 2  # of either test set
# What `--low-memory` adds to the command of stage 2 at 256 px, which then starts from LlamaGen's weights.
LOW_MEMORY = {
    "adamw8bit": "--optimizer adamw8bit",
    "lora": "--lora-rank 16 --lora-train-tables",  # these weights have no marks
}
LOW_MEMORY_STEPS = 3
LOW_MEMORY_GB = 24  # of the GPU that it is for


def llamagen_file(gpt_model: str) -> str:
    """`R-GPT-XL` → the published name of the LlamaGen file it starts from."""
    return f"pretrained_models/t2i_{gpt_model.removeprefix('R-GPT-')}_stage1_256.pt"


def published_words(stage: str, values: dict[str, str]) -> list[str]:
    """A published command without its launcher, with some flags' values replaced."""
    _, _, *words = shlex.split(PUBLISHED[stage])
    for flag, value in values.items():
        words[words.index(flag) + 1] = value
    return words


@dataclass(frozen=True)
class Rehearsal:
    """Rehearses the three published training commands with random weights, or stage 2 in little memory."""

    work_dir: str = shared.work_dir("results/rehearsal", ", on a large disk")
    gpt_model: str = models.gpt_model("R-GPT-XL", sorted(n for n in GPT_MODELS if n.startswith("R-GPT-")))
    ranks: int = option(1, within=COUNT, help="processes a command")
    image_size: int | None = models.image_size(
        None,
        "the first two commands' images, the third takes twice as much (default: 256 for R-GPT-XL, else 128)",
    )
    mixed_precision: str = training.mixed_precision()
    low_memory: list[str] | None = option(
        None,
        choices=list(LOW_MEMORY),
        help="in their place stage 2 as it fits a GPU of 24 GB: all weights with AdamW in 8 bits, an adapter",
    )

    def __post_init__(self) -> None:
        if self.side < 32 or self.side % 16:
            raise UserError(f"--image-size {self.side}: must be a multiple of 16, 32 at least")

    @property
    def side(self) -> int:
        """Of the images of the first two commands."""
        return self.image_size or (256 if self.gpt_model == "R-GPT-XL" else 128)

    def settings(self) -> dict[str, Any]:
        """What tells rehearsals apart."""
        return asdict(self) | {"image_size": self.side}

    @property
    def root(self) -> Path:
        return Path(self.work_dir).resolve()

    @property
    def stages(self) -> list[str]:
        """What is rehearsed, in this order."""
        return self.low_memory or list(PUBLISHED)

    def steps(self, stage: str) -> int:
        return LOW_MEMORY_STEPS if self.low_memory else STEPS[stage]

    def command(self, stage: str) -> list[str]:
        """The published command with the values of this rehearsal, without its launcher."""
        steps, batch = str(self.steps(stage)), str(self.ranks)
        values = {"--results-dir": stage, "--global-batch-size": batch, "--image-size": str(self.side)}
        if self.gpt_model != "R-GPT-XL":
            values["--gpt-model"] = self.gpt_model
        added = shlex.split(ADDED) + ["--mixed-precision", self.mixed_precision]
        if self.low_memory:
            added += shlex.split(LOW_MEMORY[stage])
        if self.low_memory or stage == "stage1_256":
            values["--init-gpt-ckpt"] = llamagen_file(self.gpt_model)
        if stage == "stage2_512":
            values |= {"--image-size": str(2 * self.side)}
            values |= {"--val-global-batch-size": str(NUM_TEST_ITEMS)}
            values |= {"--validate_every": str(VALIDATED_STEP), "--early-stop": steps}
        else:
            added += ["--max-steps", steps]
        program, *words = published_words("stage2_256" if self.low_memory else stage, values)
        return [str(ROOT / program), *words, *added]
