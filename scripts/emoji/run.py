"""The emoji set from the package to the report: its steps, its numbers and its page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluations.editing.verification import HEADLINE, TITLES
from evaluations.report.edit_grid import edit_grid
from evaluations.report.report import (
    CurveSection,
    EditGridSection,
    Section,
    TableSection,
    TextSection,
    build_report,
)
from runtime.config import dump_config
from runtime.texts import write_json
from scripts.emoji.config import TrainEmoji
from scripts.shapes.quickstart import edit_items
from scripts.shapes.recipe import (
    ShapesRecipe,
    make_text_encoder,
    take_tokenizer,
    train_stage1,
    train_stage2,
)
from scripts.shapes.scores import MASKED_TEMPERATURE, draw_and_score, edit_and_score
from scripts.shapes.step_runner import StepRunner
from scripts.shapes.train import export

SINGLE = ("--turns", "single")
MASKED = ("--text", "instruction", "--temperature", str(MASKED_TEMPERATURE), *SINGLE)
MODES = {
    "masked": ([*MASKED, "--write-ceiling"], "test"),
    "masked_random": ([*MASKED, "--order", "random"], "test"),
    "auto_mask": ([*MASKED, "--auto-mask"], "test"),
    "new_names": ([*MASKED, "--write-ceiling"], "test_names"),
    "zero_shot": (["--text", "global", *SINGLE], "test"),
    "full_regeneration": (["--text", "instruction", "--full-mask", *SINGLE], "test"),
}
"""How edits are made -> flags of the sampler, and the test set."""
ASKED = (HEADLINE, "passed", "others_unchanged", "sprite", "look_alike", "remove")
DRAWINGS = "drawings"
_SHOWN = 12


def make_data(config: TrainEmoji, runner: StepRunner) -> None:
    """The emoji set in `data`."""
    folder = runner.root / "data"
    command = ["dataset/emoji/prepare_emoji.py", "--package", str(Path(config.package).resolve())]
    command += ["--output-dir", str(folder), "--num-train", str(config.num_train)]
    command += ["--num-portraits", str(config.num_portraits)]
    if config.num_sticker_names is not None:
        command += ["--num-sticker-names", str(config.num_sticker_names)]
    command += ["--num-test", str(config.num_test), "--seed", str(config.seed)]
    runner.run("data", folder, command)


def train(config: TrainEmoji, recipe: ShapesRecipe, runner: StepRunner) -> tuple[StepRunner, dict[str, str]]:
    """Trains as far as `--until`; returns the runner that goes on, and the checkpoints by name."""
    vq_ckpt, runner = take_tokenizer(recipe, runner, config.vq_ckpt)
    made = {"tokenizer": vq_ckpt}
    if config.until != "tokenizer":
        made["t2i"] = train_stage1(recipe, runner, vq_ckpt)
        if config.until != "stage1":
            made["editing"] = train_stage2(recipe, runner, vq_ckpt, made["t2i"])
    return runner, made


def score(config: TrainEmoji, runner: StepRunner, made: dict[str, str]) -> None:
    """Edits the test sets, draws the captions, lets the verifier judge."""
    for mode, (flags, test_set) in MODES.items():
        edit_and_score(
            runner,
            mode,
            made["tokenizer"],
            made["t2i" if mode == "zero_shot" else "editing"],
            flags,
            seed=config.seed,
            ceiling=runner.root / "edits" / ("new_names" if mode == "new_names" else "masked") / "ceiling",
            test_set=test_set,
            verifier="emoji",
        )
    draw_and_score(
        runner,
        DRAWINGS,
        made["tokenizer"],
        made["t2i"],
        "raster",
        seed=config.seed,
        captions="drawings/t2i.jsonl",
        more=["--emoji-scenes", str(runner.root / "data" / "drawings" / "scenes.json")],
    )


def summarise(config: TrainEmoji, runner: StepRunner) -> dict[str, Any]:
    """The numbers of `summary.json`."""
    verifier, drawings = read_rates(runner.root)
    reconstruction = json.loads((runner.root / "reconstructions" / "reconstruction.json").read_text())
    return {
        "minutes": sum(runner.seconds.values()) / 60,
        "tokenizer_psnr": reconstruction["psnr"],
        "verifier": verifier,
        "drawings": drawings,
        "commit": ", ".join(sorted(runner.commits)),
        "steps_scale": config.steps_scale,
        "seconds": runner.seconds,
    }


def read_rates(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The verifier's rates, by how edits were made, and those of what was drawn by name."""
    scores = {m: json.loads((root / "scores" / m / "evaluation_metrics.json").read_text()) for m in MODES}
    rates = {mode: scores[mode]["verifier"]["generated"]["all_turn"] for mode in MODES}
    for mode, prefix in (("masked", ""), ("new_names", "new names: ")):
        for row in ("tokenizer_ceiling", "copy_source"):
            rates[prefix + row] = scores[mode]["verifier"][row]["all_turn"]
    return rates, json.loads((root / "scores" / DRAWINGS / "drawings.json").read_text())


def report_sections(root: Path, summary: dict[str, Any]) -> list[Section]:
    """What the page shows."""
    masked = edit_items(root, "masked")
    seconds = [[name, spent] for name, spent in summary["seconds"].items()]
    sections = [
        TextSection(
            "What this is",
            "Noto emoji by Google (Apache License 2.0), named by emoji-data (MIT). Tones of skin, hair, "
            "genders, colours, clock times and moon phases change into what the artist drew; stickers are "
            "added, removed, replaced, moved, resized. No picture below was shown in training.",
        ),
        *tables(summary["verifier"], summary["drawings"]),
        EditGridSection("Edits in the masked region", masked[:_SHOWN]),
        EditGridSection("Masked edits that failed", [item for item in masked if not item.passed][:_SHOWN]),
        EditGridSection("Full regeneration: no region given", edit_items(root, "full_regeneration")[:_SHOWN]),
        CurveSection("Tokenizer loss", _curves(root, ["tokenizer"])),
        CurveSection("Transformer loss", _curves(root, ["stage1", "stage2"])),
        TableSection("Where the time went", ["step", "seconds"], seconds, digits=1),
    ]
    return [section for section in sections if getattr(section, "runs", True)]


def tables(verifier: dict[str, Any], drawings: dict[str, Any]) -> list[TableSection]:
    """Rates of all edits and by kind, what was mistaken for what, and drawings."""
    compared = ("masked", "tokenizer_ceiling", "copy_source")
    kinds = {row: verifier[row]["by_kind"] for row in compared}
    relations = dict.fromkeys(name for rates in verifier.values() for name in rates.get("confusion", {}))
    said = {row: row.replace("_", " ") for row in verifier}
    found = {row: rates.get("confusion", {}) for row, rates in verifier.items()}
    groups = drawings["by_group"].items()
    return [
        TableSection(
            "Held-out edits",
            ["", *(TITLES[key] for key in ASKED)],
            [[said[row], *(rates.get(key) for key in ASKED)] for row, rates in verifier.items()],
            note="An edit is done if what was asked for is there and all else is unchanged: the first. "
            "Edits of new names ask for emoji whose name and picture no training showed. Masked edits are "
            f"drawn at temperature {MASKED_TEMPERATURE}; the ceiling is the true result passed through the "
            "tokenizer.",
        ),
        TableSection(
            "By kind of edit: done",
            ["", *(said[row] for row in compared)],
            [[kind, *(_rate(kinds[row].get(kind)) for row in compared)] for kind in kinds["masked"]],
        ),
        TableSection(
            "What was found in place of what was wanted",
            ["", *relations],
            [[said[row], *(counts.get(name, 0) for name in relations)] for row, counts in found.items()],
            note="Numbers of edits; a tone, a clock or a colour means that all else of it is right.",
        ),
        TableSection(
            "Drawn by name",
            ["", "right emoji", "images"],
            [[name.replace("_", " "), values["sprite"], values["num_images"]] for name, values in groups],
        ),
    ]


def _rate(rates: dict[str, Any] | None) -> float | None:
    return rates and rates[HEADLINE]


def _curves(root: Path, trainings: Sequence[str]) -> dict[str, Path]:
    """A tokenizer that was taken over left none."""
    paths = {name: root / name / "metrics.jsonl" for name in trainings}
    return {name: path for name, path in paths.items() if path.exists()}


def run(config: TrainEmoji) -> None:
    """Makes everything as far as `--until`, and prints the summary."""
    root = Path(config.results_dir).resolve()
    runner, recipe = StepRunner(root), config.recipe()
    dump_config(config, root)
    make_data(config, runner)
    make_text_encoder(recipe, runner)
    if config.until == "data":
        return
    runner, made = train(config, recipe, runner)
    if config.until in ("tokenizer", "stage1", "stage2"):
        return
    weights = export(runner, made)
    score(config, runner, dict(zip(made, weights, strict=True)))
    if config.until == "scores":
        return
    summary = summarise(config, runner)
    build_report(
        root / "report.html",
        "Emoji: image editing by next editing token prediction",
        report_sections(root, summary),
        subtitle=f"{summary['minutes']:.0f} minutes, commit {summary['commit']}",
    )
    edit_grid(edit_items(root, "masked")[:_SHOWN], root / "edits.png")
    write_json(root / "summary.json", summary)
    print(json.dumps(summary, indent=1))
    print(f"\nOpen {root / 'report.html'}")
