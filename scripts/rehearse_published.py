"""Rehearses the three published training commands at full size, with random weights.

Makes weights in the published formats and tiny data sets in the published layouts, runs the commands as the
paper's README writes them for a few steps each, and checks what they leave behind. The number of ranks, the
batch sizes, the folders of results and the number of steps differ from there; the flags of `ADDED` only save
memory and waiting. A checkpoint is deleted once the next command has started from it.

    python scripts/rehearse_published.py                                  # R-GPT-XL: about an hour, 24 GB
    python scripts/rehearse_published.py --gpt-model R-GPT-B --ranks 2    # at half the size: minutes

A run that was stopped goes on after the last command whose checkpoint is still there.
"""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rehearsal_assets import NUM_TEST_ITEMS, empty_model, llamagen_file, make_assets
from rehearsal_checks import Checks, Training, check_emu, check_magicbrush, check_training, expected_shapes
from rehearsal_run import run_watched

from autoregressive.models.config import GPT_MODELS
from runtime.config import option, parse
from runtime.errors import UserError, run_command
from runtime.files import write_atomic
from runtime.logging import get_logger
from runtime.ranges import COUNT, SIZE

log = get_logger("rehearsal")
ROOT = Path(__file__).resolve().parent.parent
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
GIGABYTE = 1e9


@dataclass(frozen=True)
class Rehearsal:
    """Rehearses the three published training commands with random weights."""

    work_dir: str = option("results/rehearsal", help="everything goes here; it must be on a large disk")
    gpt_model: str = option(
        "R-GPT-XL", help="transformer size", choices=sorted(n for n in GPT_MODELS if n.startswith("R-GPT-"))
    )
    ranks: int = option(1, within=COUNT, help="processes a command")
    image_size: int | None = option(
        None,
        within=SIZE,
        help="of the first two commands, the third takes twice as much (default: 256 for R-GPT-XL, else 128)",
    )
    mixed_precision: str = option("bf16", help="autocast type", choices=["none", "bf16", "fp16"])

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

    def command(self, stage: str) -> list[str]:
        """The published command with the values of this rehearsal, without its launcher."""
        steps, batch = str(STEPS[stage]), str(self.ranks)
        values = {"--results-dir": stage, "--global-batch-size": batch, "--image-size": str(self.side)}
        if self.gpt_model != "R-GPT-XL":
            values["--gpt-model"] = self.gpt_model
        added = shlex.split(ADDED) + ["--mixed-precision", self.mixed_precision]
        if stage == "stage1_256":
            values["--init-gpt-ckpt"] = llamagen_file(self.gpt_model)
        if stage == "stage2_512":
            values |= {"--image-size": str(2 * self.side)}
            values |= {"--val-global-batch-size": str(NUM_TEST_ITEMS)}
            values |= {"--validate_every": str(VALIDATED_STEP), "--early-stop": steps}
        else:
            added += ["--max-steps", steps]
        _, _, program, *words = shlex.split(PUBLISHED[stage])
        for flag, value in values.items():
            words[words.index(flag) + 1] = value
        return [str(ROOT / program), *words, *added]

    def training(self, stage: str) -> Training:
        """What the command of `stage` is asked to do."""
        words = self.command(stage)

        def value(flag: str) -> str:
            return words[words.index(flag) + 1]

        return Training(
            results=self.root / stage,
            gpt_model=value("--gpt-model"),
            image_size=int(value("--image-size")),
            mask_in_context="--mask_in_context" in words,
            steps=STEPS[stage],
            lr=float(value("--lr")),
            started_from=self.root / value("--init-gpt-ckpt"),
        )


def rehearse(config: Rehearsal) -> list[dict[str, Any]]:
    """Runs the commands that are not done yet; returns a record of each, also written to rehearsal.json.

    Raises:
      UserError: too little disk.
    """
    check_disk(config)
    make_assets(config.root, config.gpt_model, 2 * config.side, config.ranks)
    records = kept_records(config)
    for record in records:
        log.info("%s: done before, %s is still there", record["stage"], HANDED_ON[record["stage"]])
    for stage in list(PUBLISHED)[len(records) :]:
        records.append(run_stage(config, stage))
        content = json.dumps({"settings": config.settings(), "commands": records}, indent=1)
        write_atomic(config.root / "rehearsal.json", lambda path, text=content: path.write_text(text))
        if not passed(records[-1]):
            break
    return records


def run_stage(config: Rehearsal, stage: str) -> dict[str, Any]:
    """Runs and checks one command; passes its checkpoint on, deletes the one that it started from."""
    training, checks = config.training(stage), Checks()
    shutil.rmtree(training.results, ignore_errors=True)
    launcher = ["--standalone", f"--nproc_per_node={config.ranks}"]
    words = [*launcher, *config.command(stage)]
    log.info("%s, in %s:\ntorchrun %s", stage, config.root, shlex.join(words))
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    taken = run_watched([*torchrun, *words], config.root, config.root / f"{stage}.log")
    checks.add("exit status 0", taken.status == 0, taken.status)
    if taken.status == 0:
        shapes = expected_shapes(training.gpt_model, training.image_size, training.mask_in_context)
        check_training(checks, training, shapes)
        if stage == "stage2_512":
            check_magicbrush(checks, config.root, training, VALIDATED_STEP)
            check_emu(checks, config.root, training, VALIDATED_STEP)
    for check in checks.failed:
        log.error("%s: FAILED %s: %s", stage, check["name"], check["found"])
    record = {"stage": stage, "command": shlex.join(["torchrun", *words]), **asdict(taken)}
    record["checks"] = checks.results
    if passed(record):
        if stage in HANDED_ON:
            training.checkpoint.replace(config.root / HANDED_ON[stage])
        else:
            training.checkpoint.unlink()
        if training.started_from.name in HANDED_ON.values():
            training.started_from.unlink()
    return record


def passed(record: dict[str, Any]) -> bool:
    return all(check["passed"] for check in record["checks"])


def kept_records(config: Rehearsal) -> list[dict[str, Any]]:
    """The records of an earlier rehearsal of the same kind, up to the last checkpoint that is still there."""
    handed_on = {stage: config.root / name for stage, name in HANDED_ON.items()}
    try:
        earlier = json.loads((config.root / "rehearsal.json").read_text())
        records = earlier["commands"] if earlier["settings"] == config.settings() else []
        while records and not (
            records[-1]["stage"] in handed_on and handed_on[records[-1]["stage"]].exists()
        ):
            records.pop()
    except (OSError, ValueError, KeyError, TypeError):
        records = []
    if not records:  # what is left of a rehearsal of another kind must not be taken for this one's
        for path in handed_on.values():
            path.unlink(missing_ok=True)
    return records


def check_disk(config: Rehearsal) -> None:
    """Refuses when the work folder's disk is too small for two checkpoints and the weights to start from."""
    shapes = [tensor.numel() for tensor in empty_model(GPT_MODELS[config.gpt_model]).state_dict().values()]
    # float32: LlamaGen's weights, and twice weights with two moments; 1.5 GB of everything else.
    needed = 4 * sum(shapes) * (1 + 3 + 3) + 1.5 * GIGABYTE
    config.root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(config.root).free
    log.info("%.1f GB of disk are needed at most (free: %.1f GB)", needed / GIGABYTE, free / GIGABYTE)
    if needed > free:
        raise UserError(
            f"{config.root} has {free / GIGABYTE:.1f} GB free, {needed / GIGABYTE:.1f} GB are needed; "
            "free some space or give another --work-dir"
        )


def table(records: list[dict[str, Any]]) -> str:
    """One row a command."""
    lines = [f"{'command':<12}{'seconds':>9}{'CPU s':>9}{'memory GB':>11}{'disk GB':>9}  checks passed"]
    for record in records:
        memory = "-" if record["memory"] is None else f"{record['memory'] / GIGABYTE:.1f}"
        good = sum(check["passed"] for check in record["checks"])
        lines.append(
            f"{record['stage']:<12}{record['seconds']:>9.0f}{record['cpu_seconds']:>9.0f}{memory:>11}"
            f"{record['disk'] / GIGABYTE:>9.1f}  {good} of {len(record['checks'])}"
        )
    return "\n".join(lines)


def main() -> None:
    config = parse(Rehearsal)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that the command ends too
    records = rehearse(config)
    print(table(records))
    if len(records) < len(PUBLISHED) or not passed(records[-1]):
        raise UserError(
            f"{records[-1]['stage']} failed; see above and {config.root / records[-1]['stage']}.log"
        )


if __name__ == "__main__":
    run_command(main)
