"""The quickstart: its steps, its numbers and its page."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Collection
from pathlib import Path

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.model_folders import About, Defaults
from autoregressive.editing.pipeline import EditingPipeline
from dataset.testsets.magicbrush import SESSIONS_FILE, read_listed_sessions, single_turn_name
from evaluations.editing.verification import HEADLINE, TITLES
from evaluations.report.edit_grid import EditItem, edit_grid
from evaluations.report.report import (
    CommandSection,
    CurveSection,
    DetailsSection,
    EditGridSection,
    ImagePairsSection,
    Section,
    TableSection,
    TextSection,
    build_report,
)
from runtime.devices import num_cpu_ranks
from runtime.texts import write_json
from scripts.shapes.config import Quickstart
from scripts.shapes.recipe import make_data, train_stage1, train_stage2, train_tokenizer
from scripts.shapes.scores import MASKED_TEMPERATURE, edit_and_score
from scripts.shapes.step_runner import ROOT, StepRunner

MODES = {
    "masked": ["--text", "instruction", "--write-ceiling", "--temperature", str(MASKED_TEMPERATURE)],
    "zero_shot": ["--text", "global", "--turns", "single"],
    "full_regeneration": ["--text", "instruction", "--full-mask", "--turns", "single"],
}
FOLDER = "model"
KNOWS = "one to three coloured shapes in the middle of their places, on plain backgrounds"
NUM_SHOWN, NUM_FIRST, NUM_FAILED = 12, 4, 2
ASKED = (HEADLINE, "passed", "others_unchanged", "color", "shape", "remove", "one_offset")


def summarise(config: Quickstart, runner: StepRunner) -> dict:
    """The numbers of `summary.json`."""
    root = runner.root
    scores = {m: json.loads((root / "scores" / m / "evaluation_metrics.json").read_text()) for m in MODES}
    masked = scores["masked"]
    rates = {mode: scores[mode]["verifier"]["generated"]["all_turn"] for mode in MODES}
    rates |= {row: masked["verifier"][row]["all_turn"] for row in ("tokenizer_ceiling", "copy_source")}
    unchanged = [masked[protocol]["unchanged_pixel_share"] for protocol in ("all_turn", "final_turn")]
    reconstruction = json.loads((root / "reconstructions" / "reconstruction.json").read_text())
    return {
        "minutes": sum(runner.seconds.values()) / 60,
        "num_edits": rates["masked"]["counts"]["passed"],
        "tokenizer_psnr": reconstruction["psnr"],
        "verifier": {row: {key: rate[key] for key in ASKED} for row, rate in rates.items()},
        "l1": {
            "masked": masked["all_turn"]["l1"],
            "copy_source": masked["copy_source"]["all_turn"]["l1"],
            "tokenizer_ceiling": masked["tokenizer_ceiling"]["all_turn"]["l1"],
        },
        "unchanged_pixel_share": min(unchanged),
        "commit": ", ".join(sorted(runner.commits)),
        "steps_scale": config.steps_scale,
        "seconds": runner.seconds,
    }


def edit_items(root: Path, mode: str, kinds: Collection[str] | None = None) -> list[EditItem]:
    """The held-out single-turn edits of a mode, as pictures with the verifier's verdict.

    Args:
      kinds: of edit; None for all.
    """
    test, edits = root / "data" / "test", root / "edits" / mode
    sessions = read_listed_sessions(test / SESSIONS_FILE)
    scored = json.loads((root / "scores" / mode / "evaluation_items.json").read_text())
    verdicts = {
        "/".join(Path(item["generated"]).parts[-2:]): item["verdict"]
        for item in scored
        if item["row"] == "generated" and item["protocol"] == "all_turn"
    }
    items = []
    for session in sessions:
        for turn in session.turns:
            folder = test / "images" / session.id
            key = f"{session.id}/{single_turn_name(session.id, turn.number)}"
            if kinds is not None and verdicts[key]["kind"] not in kinds:
                continue
            items.append(
                EditItem(
                    source=folder / turn.input,
                    mask=edits / "regions" / key,
                    instruction=turn.instruction,
                    output=edits / "images" / key,
                    target=folder / turn.output,
                    passed=verdicts[key][HEADLINE],
                )
            )
    return items


def report_sections(runner: StepRunner, summary: dict) -> list[Section]:
    root = runner.root
    masked = edit_items(root, "masked")
    failed = [item for item in masked if not item.passed]
    verifier, l1 = summary["verifier"], summary["l1"]
    rows = [
        [row.replace("_", " "), *(rates[k] for k in ASKED), l1.get(row, "")]
        for row, rates in verifier.items()
    ]
    seconds = [[name, spent] for name, spent in runner.seconds.items()]
    details = [
        *_detail_sections(root, summary, masked, failed),
        TableSection("Where the time went", ["step", "seconds"], seconds, digits=1),
    ]
    return [
        TextSection(
            "What this is",
            "Every picture below shows a scene that no training saw. The editor is told the instruction and "
            "the region; it predicts only the tokens of the cells inside, and every other pixel is the "
            "source's. Objects stand in the middle of their places, on plain backgrounds: the easy setting.",
        ),
        TableSection(
            "Held-out edits",
            ["", *(TITLES[key] for key in ASKED), "L1"],
            rows,
            note=f"{summary['num_edits']} edits, judged by the rule-based verifier. An edit is done if the "
            "edited object is right and everything else is unchanged: the first column, and ✓ below. Copying "
            "the source must score 0; masked edits are drawn at temperature "
            f"{MASKED_TEMPERATURE}, the others at 0.5; the ceiling is the true result passed through the "
            "tokenizer.",
        ),
        EditGridSection("Edits in the masked region", masked[:NUM_FIRST]),
        EditGridSection(
            "Masked edits that failed",
            failed[:NUM_FAILED],
            note=f"{len(failed)} of {len(masked)} did not pass the verifier, or damaged something else.",
        ),
        DetailsSection("Details: more edits, other ways to edit, the tokenizer, losses, times", details),
        CommandSection("Try your model now", commands(root)),
    ]


def _detail_sections(
    root: Path, summary: dict, masked: list[EditItem], failed: list[EditItem]
) -> list[Section]:
    pairs = sorted((root / "edits" / "masked" / "ceiling").glob("*/*.png"))[:12]
    originals = [root / "data" / "test" / "images" / p.parent.name / p.name for p in pairs]
    return [
        EditGridSection("More edits in the masked region", masked[NUM_FIRST:NUM_SHOWN]),
        EditGridSection("More masked edits that failed", failed[NUM_FAILED:NUM_SHOWN]),
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
        CurveSection(
            "Tokenizer loss",
            {"tokenizer": root / "tokenizer" / "metrics.jsonl"},
            note="Absolute and quantization error of pictures in [-1, 1], by optimizer step.",
        ),
        CurveSection(
            "Transformer loss",
            {stage: root / stage / "metrics.jsonl" for stage in ("stage1", "stage2")},
            note="Cross-entropy, nats a predicted token, by optimizer step.",
        ),
    ]


def commands(root: Path) -> list[tuple[str, str]]:
    """What to do with the folder that `save_folder` has made: sentences, and commands for the checkout."""
    folder = root.relative_to(ROOT) if root.is_relative_to(ROOT) else root
    return [
        (
            "A page on which to say what to change, and where (once: pip install -e '.[demo]'):",
            f"python scripts/demo.py --model {shlex.quote(str(folder / FOLDER))}",
        ),
        (
            "The same in Python:",
            "from autoregressive import EditingPipeline\n"
            f"pipeline = EditingPipeline.from_pretrained({str(folder / FOLDER)!r})\n"
            'pipeline.edit("picture.png", "make the red circle purple", "auto")[0].image.save("edited.png")',
        ),
    ]


def save_folder(root: Path, vq_ckpt: str, stage1: str, stage2: str, psnr: float) -> None:
    """Both models as one folder for `from_pretrained`, used by default as they are scored."""
    for name, ckpt, temperature in (("editing", stage2, MASKED_TEMPERATURE), ("t2i", stage1, 0.5)):
        pipeline = EditingPipeline.load(vq_ckpt, ckpt, root / "t5")
        pipeline.defaults = Defaults(Sampling(1.0, temperature=temperature), "exact")
        pipeline.about = About(KNOWS, round(psnr, 1))
        pipeline.save_pretrained(root / FOLDER, name)


def run(config: Quickstart) -> None:
    """Makes everything and prints the summary."""
    root = Path(config.results_dir).resolve()
    runner, recipe = StepRunner(root), config.recipe(num_cpu_ranks())
    make_data(recipe, runner)
    vq_ckpt = train_tokenizer(recipe, runner)
    stage1 = train_stage1(recipe, runner, vq_ckpt)
    stage2 = train_stage2(recipe, runner, vq_ckpt, stage1)
    for mode, flags in MODES.items():
        gpt_ckpt = stage1 if mode == "zero_shot" else stage2
        ceiling = root / "edits" / "masked" / "ceiling"
        edit_and_score(runner, mode, vq_ckpt, gpt_ckpt, flags, seed=config.seed, ceiling=ceiling)
    start = time.monotonic()
    summary = summarise(config, runner)
    save_folder(root, vq_ckpt, stage1, stage2, summary["tokenizer_psnr"])
    build_report(
        root / "report.html",
        "Quickstart: image editing by next editing token prediction",
        report_sections(runner, summary),
        subtitle=f"{summary['minutes']:.1f} minutes, commit {summary['commit']}",
    )
    edit_grid(edit_items(root, "masked")[:12], root / "edits.png")
    summary["minutes"] += (time.monotonic() - start) / 60
    write_json(root / "summary.json", summary)
    print(json.dumps(summary, indent=1))
    print(f"\nOpen {root / 'report.html'}")
