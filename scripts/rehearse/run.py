"""The rehearsal: runs the commands one after the other, and checks what each leaves behind."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import sys
from dataclasses import asdict
from typing import Any

from autoregressive.models.config import GPT_MODELS
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.texts import write_json
from scripts.rehearse.assets import empty_model, make_assets
from scripts.rehearse.checks import (
    Checks,
    Training,
    check_emu,
    check_magicbrush,
    check_measured_memory,
    check_training,
    expected_shapes,
)
from scripts.rehearse.config import HANDED_ON, LOW_MEMORY_GB, VALIDATED_STEP, Rehearsal
from scripts.rehearse.processes import run_watched

log = get_logger("rehearsal")
GIGABYTE = 1e9


def run(config: Rehearsal) -> None:
    """Rehearses and prints a table.

    Raises:
      UserError: a command failed, or did not leave what it should.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that the command ends too
    records = rehearse(config)
    print(table(records))
    if len(records) < len(config.stages) or not passed(records[-1]):
        raise UserError(
            f"{records[-1]['stage']} failed; see above and {config.root / records[-1]['stage']}.log"
        )


def training_of(config: Rehearsal, stage: str) -> Training:
    """What the command of `stage` is asked to do."""
    words = config.command(stage)

    def value(flag: str) -> str:
        return words[words.index(flag) + 1]

    return Training(
        results=config.root / stage,
        gpt_model=value("--gpt-model"),
        image_size=int(value("--image-size")),
        mask_in_context="--mask_in_context" in words,
        steps=config.steps(stage),
        lr=float(value("--lr")),
        started_from=config.root / value("--init-gpt-ckpt"),
        lora="--lora-rank" in words,
        eight_bits="adamw8bit" in words,
    )


def rehearse(config: Rehearsal) -> list[dict[str, Any]]:
    """Runs the commands that are not done yet; returns a record of each, also written to rehearsal.json.

    Raises:
      UserError: too little disk.
    """
    check_disk(config)
    side, validates = 2 * config.side, not config.low_memory
    make_assets(config.root, config.gpt_model, side, config.ranks, validates=validates)
    records = kept_records(config)
    for record in records:
        log.info("%s: done before, %s is still there", record["stage"], HANDED_ON[record["stage"]])
    for stage in config.stages[len(records) :]:
        records.append(run_stage(config, stage))
        write_json(config.root / "rehearsal.json", {"settings": config.settings(), "commands": records})
        if not passed(records[-1]):
            break
    return records


def run_stage(config: Rehearsal, stage: str) -> dict[str, Any]:
    """Runs and checks one command; passes its checkpoint on, deletes the one that it started from."""
    training, checks = training_of(config, stage), Checks()
    shutil.rmtree(training.results, ignore_errors=True)
    launcher = ["--standalone", f"--nproc_per_node={config.ranks}"]
    words = [*launcher, *config.command(stage)]
    log.info("%s, in %s:\ntorchrun %s", stage, config.root, shlex.join(words))
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    if config.low_memory:
        dry_run = config.root / f"{stage}_dry_run.log"
        run_watched([*torchrun, *words, "--dry-run"], config.root, dry_run)
        check_measured_memory(checks, dry_run, LOW_MEMORY_GB)
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
