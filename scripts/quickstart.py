"""From nothing to a page of edits: data, tokenizer, both training stages, editing, evaluation, report.

Runs the project's own commands one after the other and prints each, so that it is also a worked example. A
step that is done already, with the same command and the same inputs, is not run again; a training that was
interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from evaluations.edit_grid import EditItem, edit_grid
from evaluations.report import (
    CurveSection,
    EditGridSection,
    ImagePairsSection,
    Section,
    TableSection,
    TextSection,
    build_report,
)
from runtime.checkpoint import list_checkpoints, write_atomic
from runtime.config import option, parse
from runtime.errors import UserError, run_command
from runtime.logging import get_logger

log = get_logger(__name__)
ROOT = Path(__file__).resolve().parent.parent
IMAGE_SIZE = 72
STEPS = {"tokenizer": 500, "stage1": 320, "stage2": 420}
MODES = {
    "masked": ["--text", "instruction", "--write-ceiling"],
    "zero_shot": ["--text", "global", "--turns", "single"],
    "full_regeneration": ["--text", "instruction", "--full-mask", "--turns", "single"],
}
NUM_SHOWN = 12


@dataclass(frozen=True)
class Quickstart:
    """Trains three small models on synthetic scenes, edits held-out ones, evaluates, reports."""

    results_dir: str = option("results/quickstart", help="everything goes here")
    steps_scale: float = option(1.0, help="multiplies the steps of the three trainings")
    num_train: int = option(8000, help="training edits")
    num_test: int = option(500, help="held-out edits")
    seed: int = option(0, help="of data, trainings and draws")

    def steps(self, training: str) -> int:
        """Optimizer steps of a training."""
        return max(round(STEPS[training] * self.steps_scale), 2)


@dataclass
class Runner:
    """Runs steps, skipping those whose command and inputs have not changed since they were done."""

    root: Path
    seconds: dict[str, float] = field(default_factory=dict)
    _inputs: str = ""

    def run(self, name: str, output: Path, command: list[str], resume_flag: str | None = None) -> None:
        """Runs `python command…` as the step `name`.

        Args:
          output: the folder that the step writes; made anew if its command or an earlier step has changed.
          resume_flag: for trainings, the flag that goes on from a checkpoint.
        """
        # Chained: a step also depends on every step before it.
        self._inputs = hashlib.sha256(json.dumps([self._inputs, command]).encode()).hexdigest()
        marker = self.root / "steps" / f"{name}.json"
        state = json.loads(marker.read_text()) if marker.exists() else {}
        same = state.get("inputs") == self._inputs
        number = len(self.seconds) + 1
        if same and state["done"]:
            log.info("step %d, %s: done already (%.0f s)", number, name, state["seconds"])
            self.seconds[name] = state["seconds"]
            return
        if not same and output.exists():
            log.info("step %d, %s: its settings have changed, %s is made anew", number, name, output)
            shutil.rmtree(output)
        spent = state["seconds"] if same else 0.0
        extra: list[str] = []
        if resume_flag and (found := list_checkpoints(output / "checkpoints")):
            extra = [resume_flag, str(found[-1])]
        log.info("step %d, %s:\n  python %s", number, name, shlex.join([*command, *extra]))
        self._mark(marker, spent, done=False)
        start = time.monotonic()
        try:
            status = subprocess.run([sys.executable, *command, *extra], cwd=ROOT).returncode
        finally:
            spent += time.monotonic() - start
            self._mark(marker, spent, done=False)
        if status:
            raise UserError(f"step {name} failed with exit status {status}; its message is above")
        self._mark(marker, spent, done=True)
        self.seconds[name] = spent

    def _mark(self, marker: Path, seconds: float, done: bool) -> None:
        content = json.dumps({"inputs": self._inputs, "done": done, "seconds": seconds})
        write_atomic(marker, lambda temporary: temporary.write_text(content))


def make_data(config: Quickstart, runner: Runner) -> None:
    """The shapes set and the text encoder that knows its words."""
    data, t5, seed = runner.root / "data", runner.root / "t5", str(config.seed)
    runner.run(
        "data",
        data,
        ["dataset/prepare_shapes.py", "--output-dir", str(data), "--image-size", str(IMAGE_SIZE)]
        + ["--num-train", str(config.num_train), "--num-test", str(config.num_test), "--seed", seed],
    )
    lists = [str(data / "train" / f"{name}.jsonl") for name in ("t2i", "editing")]
    runner.run(
        "text_encoder",
        t5,
        ["language/small_t5.py", "--texts", *lists, "--output-dir", str(t5), "--seed", seed],
    )


def train_tokenizer(config: Quickstart, runner: Runner) -> str:
    """Trains and judges the tokenizer; returns its checkpoint."""
    root, steps = runner.root, config.steps("tokenizer")
    data, tokenizer, seen = root / "data", root / "tokenizer", root / "reconstructions"
    runner.run(
        "tokenizer",
        tokenizer,
        ["tokenizer/tokenizer_image/vq_train.py", "--vq-model", "VQ-8-small"]
        + ["--data-path", str(data / "train" / "t2i.jsonl"), "--max-images", "6000"]
        + ["--image-size", str(IMAGE_SIZE), "--results-dir", str(tokenizer), "--steps", str(steps)]
        + ["--global-batch-size", "16", "--optimizer", "muon", "--lr", "2e-3", "--muon-lr", "0.02"]
        + ["--weight-decay", "0", "--lr-schedule", "cosine", "--perceptual-weight", "0", "--disc-weight", "0"]
        + ["--reconstruction-weight", "2", "--l1-weight", "1", "--gradient-weight", "1"]
        + ["--quantize-after", str(min(100, steps // 2)), "--reseed-every", "50"]
        + ["--no-augment", "--cache-images", "--num-workers", "0", "--log-every", "20"]
        + ["--ckpt-every", "200", "--max-checkpoints", "2", "--global-seed", str(config.seed)],
        resume_flag="--vq-ckpt",
    )
    vq_ckpt = _checkpoint(tokenizer, steps)
    runner.run(
        "reconstructions",
        seen,
        ["tokenizer/tokenizer_image/reconstruction_eval.py", "--vq-ckpt", vq_ckpt]
        + ["--data-path", str(data / "test" / "t2i.jsonl"), "--image-size", str(IMAGE_SIZE)]
        + ["--num-images", "500", "--output-dir", str(seen)],
    )
    return vq_ckpt


def train_transformers(config: Quickstart, runner: Runner, vq_ckpt: str) -> dict[str, str]:
    """Trains both stages; returns their checkpoints."""
    root = runner.root
    train = root / "data" / "train"
    shared = ["--vq-ckpt", vq_ckpt, "--t5-path", str(root / "t5"), "--gpt-model", "R-GPT-mini"]
    shared += ["--image-size", str(IMAGE_SIZE), "--cache-codes", "--num-workers", "0"]
    shared += ["--optimizer", "muon", "--lr", "2e-3", "--muon-lr", "0.02", "--weight-decay", "0"]
    shared += ["--lr-scheduler", "cosine", "--dropout-p", "0", "--token-dropout-p", "0"]
    shared += ["--epochs", "1000", "--no-epoch-save", "--ckpt-every", "200", "--max-checkpoints", "2"]
    shared += ["--log-every", "20", "--global-seed", str(config.seed)]
    shared += ["--preview-every", "200", "--cfg-scale", "1"]
    ckpts = {stage: _checkpoint(root / stage, config.steps(stage)) for stage in ("stage1", "stage2")}
    runner.run(
        "stage1",
        root / "stage1",
        ["autoregressive/train/train_t2i.py", *shared, "--data-path", str(train / "t2i.jsonl")]
        + ["--global-batch-size", "48", "--max-steps", str(config.steps("stage1"))]
        + ["--results-dir", str(root / "stage1")],
        resume_flag="--gpt-ckpt",
    )
    runner.run(
        "stage2",
        root / "stage2",
        ["autoregressive/train/train_editing.py", *shared, "--data-path", str(train / "editing.jsonl")]
        + ["--mask_in_context", "--text-field", "instruction", "--mask-rule", "exact"]
        + ["--center-crop", "--mask-dilation", "4", "--full-mask-share", "0.2"]
        + ["--init-gpt-ckpt", ckpts["stage1"]]
        + ["--global-batch-size", "40", "--max-steps", str(config.steps("stage2"))]
        + ["--results-dir", str(root / "stage2")],
        resume_flag="--gpt-ckpt",
    )
    return ckpts


def edit_and_evaluate(config: Quickstart, runner: Runner, vq_ckpt: str, ckpts: dict[str, str]) -> None:
    """Edits the held-out scenes in every mode and scores the results."""
    root = runner.root
    test = root / "data" / "test"
    for mode, flags in MODES.items():
        edits, scores = root / "edits" / mode, root / "scores" / mode
        runner.run(
            f"edit_{mode}",
            edits,
            [
                "autoregressive/sample/sample_magicbrush.py",
                "--vq-ckpt",
                vq_ckpt,
                "--t5-path",
                str(root / "t5"),
            ]
            + ["--gpt-ckpt", ckpts["stage1" if mode == "zero_shot" else "stage2"]]
            + ["--magicbrush-path", str(test), "--output-dir", str(edits), "--mask-rule", "exact"]
            + ["--cfg-scale", "1", "--temperature", "0.5", "--batch-size", "64"]
            + ["--seed", str(config.seed), *flags],
        )
        single = ["--protocols", "all_turn"] if mode != "masked" else []
        runner.run(
            f"evaluate_{mode}",
            scores,
            ["evaluations/editing/image_eval.py", "--generated_path", str(edits / "images")]
            + ["--gt_path", str(test / "images"), "--sessions-json", str(test / "edit_sessions.json")]
            + ["--caption_path", str(test / "local_descriptions.json"), "--metric", "l1,l2,region,unchanged"]
            + ["--regions-path", str(edits / "regions"), "--samples-json", str(edits / "samples.json")]
            + ["--shapes-json", str(test / "shapes.json"), "--save_path", str(scores)]
            + ["--ceiling-path", str(root / "edits" / "masked" / "ceiling"), *single],
        )


def _checkpoint(folder: Path, step: int) -> str:
    return str(folder / "checkpoints" / f"{step:07d}.pt")


def summarise(config: Quickstart, runner: Runner) -> dict:
    """The numbers of `summary.json`."""
    root = runner.root
    scores = {m: json.loads((root / "scores" / m / "evaluation_metrics.json").read_text()) for m in MODES}
    masked = scores["masked"]
    rates = {mode: scores[mode]["verifier"]["generated"]["all_turn"] for mode in MODES}
    rates |= {row: masked["verifier"][row]["all_turn"] for row in ("tokenizer_ceiling", "copy_source")}
    unchanged = [masked[protocol]["unchanged_pixel_share"] for protocol in ("all_turn", "final_turn")]
    reconstruction = json.loads((root / "reconstructions" / "reconstruction.json").read_text())
    asked = ("overall", "color", "shape", "remove")
    return {
        "minutes": sum(runner.seconds.values()) / 60,
        "num_edits": rates["masked"]["counts"]["overall"],
        "tokenizer_psnr": reconstruction["psnr"],
        "verifier": {row: {key: rate[key] for key in asked} for row, rate in rates.items()},
        "l1": {
            "masked": masked["all_turn"]["l1"],
            "copy_source": masked["copy_source"]["all_turn"]["l1"],
            "tokenizer_ceiling": masked["tokenizer_ceiling"]["all_turn"]["l1"],
        },
        "unchanged_pixel_share": min(unchanged),
        "commit": _commit(),
        "steps_scale": config.steps_scale,
        "seconds": runner.seconds,
    }


def _commit() -> str:
    if shutil.which("git") is None:
        return "unknown"
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def edit_items(root: Path, mode: str) -> list[EditItem]:
    """The held-out single-turn edits of a mode, as pictures with the verifier's verdict."""
    test, edits = root / "data" / "test", root / "edits" / mode
    sessions = json.loads((test / "edit_sessions.json").read_text())
    scored = json.loads((root / "scores" / mode / "evaluation_items.json").read_text())
    passed = {
        "/".join(Path(item["generated"]).parts[-2:]): item["verdict"]["passed"]
        for item in scored
        if item["row"] == "generated" and item["protocol"] == "all_turn"
    }
    items = []
    for session_id, turns in sessions.items():
        for number, turn in enumerate(turns, start=1):
            name = f"{session_id}_1" if number == 1 else f"{session_id}_inde_{number}"
            folder, key = test / "images" / session_id, f"{session_id}/{name}.png"
            items.append(
                EditItem(
                    source=folder / turn["input"],
                    mask=edits / "regions" / key,
                    instruction=turn["instruction"],
                    output=edits / "images" / key,
                    target=folder / turn["output"],
                    passed=passed[key],
                )
            )
    return items


def report_sections(runner: Runner, summary: dict) -> list[Section]:
    root = runner.root
    masked = edit_items(root, "masked")
    failed = [item for item in masked if not item.passed]
    verifier, l1 = summary["verifier"], summary["l1"]
    rows = [
        [row.replace("_", " "), *(rates[k] for k in ("overall", "color", "shape", "remove")), l1.get(row, "")]
        for row, rates in verifier.items()
    ]
    seconds = [[name, spent] for name, spent in runner.seconds.items()]
    pairs = sorted((root / "edits" / "masked" / "ceiling").glob("*/*.png"))[:12]
    originals = [root / "data" / "test" / "images" / p.parent.name / p.name for p in pairs]
    return [
        TextSection(
            "What this is",
            "Every picture below shows a scene that no training saw. The editor is told the instruction and "
            "the region; it predicts only the tokens of the cells inside, and every other pixel is the "
            "source's. Objects stand in the middle of their places, on plain backgrounds: the easy setting.",
        ),
        TableSection(
            "Held-out edits",
            ["", "verifier: overall", "colour", "shape", "remove", "L1"],
            rows,
            note=f"{summary['num_edits']} edits. Copying the source must score 0; the ceiling is the true "
            "result passed through the tokenizer.",
        ),
        EditGridSection("Edits in the masked region", masked[:NUM_SHOWN]),
        EditGridSection(
            "Masked edits that failed",
            failed[:NUM_SHOWN],
            note=f"{len(failed)} of {len(masked)} did not pass the verifier.",
        ),
        EditGridSection(
            "Zero-shot, by the text-to-image model of stage 1",
            edit_items(root, "zero_shot")[:NUM_SHOWN],
            note="It is told what the result shows, not the instruction.",
        ),
        EditGridSection(
            "Full regeneration: all cells, no region given", edit_items(root, "full_regeneration")[:NUM_SHOWN]
        ),
        ImagePairsSection(
            f"Tokenizer, {summary['tokenizer_psnr']:.1f} dB",
            [(original, path, "") for original, path in zip(originals, pairs, strict=True)],
        ),
        CurveSection("Tokenizer loss", {"tokenizer": root / "tokenizer" / "metrics.jsonl"}),
        CurveSection(
            "Transformer loss",
            {stage: root / stage / "metrics.jsonl" for stage in ("stage1", "stage2")},
            note="Cross-entropy per predicted token.",
        ),
        TableSection("Where the time went", ["step", "seconds"], seconds, digits=1),
    ]


def main() -> None:
    config = parse(Quickstart)
    root = Path(config.results_dir).resolve()
    runner = Runner(root)
    make_data(config, runner)
    vq_ckpt = train_tokenizer(config, runner)
    ckpts = train_transformers(config, runner, vq_ckpt)
    edit_and_evaluate(config, runner, vq_ckpt, ckpts)
    start = time.monotonic()
    summary = summarise(config, runner)
    build_report(
        root / "report.html",
        "Quickstart: image editing by next editing token prediction",
        report_sections(runner, summary),
        subtitle=f"{summary['minutes']:.1f} minutes, commit {summary['commit'][:10]}",
    )
    edit_grid(edit_items(root, "masked")[:12], root / "edits.png")
    summary["minutes"] += (time.monotonic() - start) / 60
    content = json.dumps(summary, indent=2)
    write_atomic(root / "summary.json", lambda temporary: temporary.write_text(content + "\n"))
    print(content)
    print(f"\nOpen {root / 'report.html'}")


if __name__ == "__main__":
    run_command(main)
